//! The filter that stops a program at some system calls: a few instructions that the kernel runs.

#![allow(unsafe_code, reason = "seccomp has no safe interface")]

use libc::{c_long, sock_filter, sock_fprog};
use std::io;

/// How the kernel calls this architecture, where it is one that `sys` knows.
const ARCHITECTURE: Option<u32> = if cfg!(target_pointer_width = "32") {
    None
} else if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const OF_ARCHITECTURE: u32 = 4;

const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// The kernel takes no longer ones.
const MOST: usize = 1000;

/// A filter that stops at these calls.
pub(super) fn program(calls: &[c_long]) -> io::Result<Vec<sock_filter>> {
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if calls.len() > MOST {
        return invalid("too many system calls");
    }
    let Some(architecture) = ARCHITECTURE else {
        let why = "system calls are traced on x86-64 and AArch64 alone";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    };
    let instruction = |code, k| sock_filter { code, jt: 0, jf: 0, k };
    // If they are not equal, the next one is left out; or if they are.
    let unless = |k| sock_filter { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k };
    let when = |k| sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k };
    let mut program = vec![
        instruction(LOAD, OF_ARCHITECTURE),
        unless(architecture),
        instruction(RETURN, libc::SECCOMP_RET_ALLOW),
        instruction(LOAD, NUMBER),
    ];
    for &call in calls {
        let Ok(number) = u32::try_from(call) else { return invalid("no system call") };
        if [libc::SYS_exit, libc::SYS_exit_group].contains(&call) {
            return invalid("a system call without an exit");
        }
        program.push(when(number));
        program.push(instruction(RETURN, libc::SECCOMP_RET_TRACE));
    }
    program.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW));
    Ok(program)
}

/// Puts it on this thread, and on all that it starts, for good. Safe to call between fork and exec.
pub(super) fn install(program: &[sock_filter]) -> io::Result<()> {
    let program = sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // So that everybody may.
    // SAFETY: it takes numbers only.
    let mut done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if done == 0 {
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the kernel reads the program, which is as long as it says, and keeps a copy.
        done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    }
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_exit_and_what_is_no_call_is_refused() {
        for calls in [&[libc::SYS_exit_group][..], &[-1], &[libc::SYS_read; MOST + 1]] {
            assert_eq!(program(calls).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let two = program(&[libc::SYS_read, libc::SYS_write]);
        assert!(two.is_ok_and(|two| two.len() == 9) || ARCHITECTURE.is_none());
    }
}
