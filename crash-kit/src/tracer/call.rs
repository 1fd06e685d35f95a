use super::sys;
use libc::c_long;
use std::ffi::OsString;
use std::io;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The longest path that the kernel takes.
const PATH_MAX: usize = 4096;
const PAGE: u64 = 4096;

/// Where a thread has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Entry,
    Exit(i64),
    Stepped,
}

/// A system call at which a thread has stopped, at its entry, at its exit, or some instructions later.
#[derive(Debug)]
pub struct Call<'t> {
    pid: i32,
    tid: i32,
    number: c_long,
    args: [u64; 6],
    stage: Stage,
    tracer: PhantomData<&'t mut ()>,
}

impl Call<'_> {
    pub(super) fn new(
        pid: i32,
        tid: i32,
        (number, args): (c_long, [u64; 6]),
        stage: Stage,
    ) -> Self {
        Self { pid, tid, number, args, stage, tracer: PhantomData }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Which call it is, as `libc::SYS_fsync`.
    #[must_use]
    pub fn number(&self) -> c_long {
        self.number
    }

    /// The arguments, as they are in registers.
    #[must_use]
    pub fn args(&self) -> [u64; 6] {
        self.args
    }

    /// An argument that is a file descriptor, or another number of 32 bits with a sign.
    #[must_use]
    pub fn int(&self, nth: usize) -> i32 {
        self.args[nth] as i32
    }

    /// Whether the call has not been made yet.
    #[must_use]
    pub fn is_entry(&self) -> bool {
        self.stage == Stage::Entry
    }

    /// Whether the thread has stopped some instructions after the call, as
    /// [`Action::Step`](super::Action::Step) says.
    #[must_use]
    pub fn is_step(&self) -> bool {
        self.stage == Stage::Stepped
    }

    /// At its exit: the result, or the error number. A call that a signal has interrupted and that will
    /// be made again has one that programs never see, from 512 on. `None` elsewhere.
    #[must_use]
    pub fn result(&self) -> Option<Result<u64, i32>> {
        let Stage::Exit(result) = self.stage else { return None };
        Some(u64::try_from(result).map_err(|_| -result as i32))
    }

    /// Reads memory of the process; fewer bytes than asked for if not all of them are mapped.
    ///
    /// # Errors
    /// Nothing is mapped there, or the process is gone.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<usize> {
        sys::read(self.tid, address, bytes)
    }

    /// Reads memory of the process that an argument points to, of at most this length.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn bytes(&self, address: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = if len == 0 { 0 } else { self.read(address, &mut bytes)? };
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Reads a path, or another text that ends with a zero byte.
    ///
    /// # Errors
    /// As for [`read`](Self::read); `InvalidData`: it has no end.
    pub fn text(&self, mut address: u64) -> io::Result<OsString> {
        let mut text = Vec::new();
        while text.len() < PATH_MAX {
            // The next page may not be mapped.
            let here = self.bytes(address, (PAGE - address % PAGE) as usize)?;
            if let Some(end) = here.iter().position(|&byte| byte == 0) {
                text.extend(&here[..end]);
                return Ok(OsString::from_vec(text));
            }
            address += here.len() as u64;
            text.extend(here);
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    /// What a descriptor of the process refers to, as `/proc` has it: opening this path opens the same
    /// file, whatever its name is now. `AT_FDCWD` is the current directory.
    #[must_use]
    pub fn descriptor(&self, fd: i32) -> PathBuf {
        if fd == libc::AT_FDCWD {
            return format!("/proc/{}/cwd", self.tid).into();
        }
        format!("/proc/{}/fd/{fd}", self.tid).into()
    }

    /// The path of a descriptor. ` (deleted)` is behind that of a file whose name is gone; what is no
    /// file has a name such as `pipe:[123]`.
    ///
    /// # Errors
    /// It is not open, or the process is gone.
    pub fn fd_path(&self, fd: i32) -> io::Result<PathBuf> {
        std::fs::read_link(self.descriptor(fd))
    }

    /// The path that a pair of arguments names: a directory's descriptor, and the address of a path from
    /// there on. It can be used here, whatever the program's current directory is, but does not look
    /// like the program's own: see [`path`](Self::path).
    ///
    /// # Errors
    /// As for [`text`](Self::text).
    pub fn place(&self, directory: i32, address: u64) -> io::Result<PathBuf> {
        Ok(self.descriptor(directory).join(Path::new(&self.text(address)?)))
    }

    /// The path that a pair of arguments names, as a person would write it.
    ///
    /// # Errors
    /// As for [`text`](Self::text) and [`fd_path`](Self::fd_path).
    pub fn path(&self, directory: i32, address: u64) -> io::Result<PathBuf> {
        let name = PathBuf::from(self.text(address)?);
        if name.is_absolute() { Ok(name) } else { Ok(self.fd_path(directory)?.join(name)) }
    }
}
