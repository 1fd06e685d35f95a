//! SIGBUS: an access to a mapped file that fails, caught where a user has asked for it. Linux only.
//!
//! The kernel raises SIGBUS in the thread that accesses a page which it cannot provide: behind the end of
//! a file that was cut short, on a medium that fails, or without space on a file system that copies on
//! write. The thread is in the middle of a load or a store, often in code that has a `&[u8]` of the map. It
//! cannot unwind from there. So the handler has the access succeed, and says that it did not:
//!
//! 1. It looks the address up in a table of ranges that were registered ([`Watched`]). If it is in none,
//!    the signal is somebody else's, and goes where it would have gone without this handler.
//! 2. It records the fault, in the range's slot and in the handle's [`Faults`].
//! 3. It puts a page of private memory in the place of the page that failed, with the bytes that can still
//!    be read there, or zeros. What is stored there reaches no file.
//! 4. It returns, and the access is tried again.
//!
//! Invariant: **a fault is recorded before its page is replaced.** So who has loaded from such a page, or
//! stored to it, and looks for a fault afterwards, finds it. That is why a write is acknowledged, and what
//! was read is believed, only if there is no fault then (`LogWriter::check_maps`, `Map::fault`).
//!
//! The handler runs in the middle of anything: in an allocator, with any lock held. It uses what may be
//! used there: atomics, its own stack, and system calls that are listed in signal-safety(7) or do nothing but
//! call the kernel (`mmap`, `mremap`, `mprotect`, `munmap`, `process_vm_readv`). It takes no lock,
//! allocates nothing and cannot panic; it leaves `errno` as it was.
//!
//! Only those who register take a lock. A slot is changed as under a sequence lock, but the handler does not
//! wait for a change to end, which may be one of the thread that it interrupts: it skips the slot. It may,
//! since the slot of the range that it looks for does not change meanwhile: the range is registered before
//! it is accessed first and until it was accessed last, and the access that failed is in between.
//!
//! The handler is installed once, by the first who asks for it, and stays. One that was there before gets what
//! is not of a registered range. One that is installed later comes first, and has to pass on what is not its
//! own, as handlers do.

#![allow(unsafe_code, reason = "a signal handler, which replaces pages of maps")]

use super::faults::{Fault, Faults, FileName};
use std::io;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence,
};
use std::sync::{Arc, Mutex, PoisonError};

/// A registered range.
#[derive(Debug)]
struct Slot {
    /// Odd while the slot is changed.
    version: AtomicUsize,
    from: AtomicUsize,
    /// 0: the slot is free.
    to: AtomicUsize,
    writable: AtomicBool,
    id: AtomicU64,
    is_hint: AtomicBool,
    /// Where to record a fault. Kept alive by the `Watched` that has the slot.
    faults: AtomicPtr<Faults>,
    /// The offset of the first page in it that failed, plus 1; 0: none did.
    failed: AtomicU64,
}

/// Slots that are allocated together, and never freed.
#[derive(Debug)]
struct Block {
    slots: [Slot; SLOTS],
    next: AtomicPtr<Block>,
}

const SLOTS: usize = 256;

static TABLE: Block = Block::new();
/// Held by whoever registers a range, or removes one. Never by the handler.
static REGISTERING: Mutex<()> = Mutex::new(());
static INSTALLED: Mutex<bool> = Mutex::new(false);
/// The size of a page.
static PAGE: AtomicUsize = AtomicUsize::new(4096);
/// What was done with the signal before, and how: `sa_sigaction` and `sa_flags`.
static PREVIOUS: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static PREVIOUS_FLAGS: AtomicI32 = AtomicI32::new(0);

impl Slot {
    const fn new() -> Self {
        Self {
            version: AtomicUsize::new(0),
            from: AtomicUsize::new(0),
            to: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            id: AtomicU64::new(0),
            is_hint: AtomicBool::new(false),
            faults: AtomicPtr::new(std::ptr::null_mut()),
            failed: AtomicU64::new(0),
        }
    }

    /// Whether an address is in the range. False while the slot is changed.
    fn has(&self, address: usize) -> bool {
        // ORDERING: Acquire; pairs with the Release store in `set`: if this sees a version, it sees the
        // range of that version, or a later one.
        let version = self.version.load(Ordering::Acquire);
        // ORDERING: Relaxed, both; between the Acquire load above and the fence below.
        let range = self.from.load(Ordering::Relaxed)..self.to.load(Ordering::Relaxed);
        // ORDERING: Acquire fence; pairs with the Release fence in `set`: if a value of a later version
        // was read above, the load below sees that the version has changed.
        fence(Ordering::Acquire);
        // ORDERING: Relaxed; behind the fence.
        let is_same = self.version.load(Ordering::Relaxed) == version;
        version.is_multiple_of(2) && is_same && range.contains(&address)
    }

    /// Changes the slot; `to` is 0 if it is to be free. The caller has locked `REGISTERING`.
    fn set(&self, range: (usize, usize), writable: bool, file: FileName, faults: *mut Faults) {
        // ORDERING: Relaxed; changed under the lock, which is held here.
        let version = self.version.load(Ordering::Relaxed);
        // ORDERING: Relaxed; comes before the stores below by the fence.
        self.version.store(version + 1, Ordering::Relaxed);
        // ORDERING: Release fence; pairs with the Acquire fence in `has`: who sees one of the values below
        // sees that the version is odd, or a later one.
        fence(Ordering::Release);
        // ORDERING: Relaxed, all of them; published by the Release store of the version below.
        self.from.store(range.0, Ordering::Relaxed);
        self.to.store(range.1, Ordering::Relaxed);
        self.writable.store(writable, Ordering::Relaxed);
        self.id.store(file.id.into(), Ordering::Relaxed);
        self.is_hint.store(file.is_hint, Ordering::Relaxed);
        self.faults.store(faults, Ordering::Relaxed);
        self.failed.store(0, Ordering::Relaxed);
        // ORDERING: Release; pairs with the Acquire load in `has`.
        self.version.store(version + 2, Ordering::Release);
    }

    fn is_free(&self) -> bool {
        // ORDERING: Relaxed; changed under the lock, which the caller holds.
        self.to.load(Ordering::Relaxed) == 0
    }

    /// Records that an access failed, and puts memory in the place of its page. False: there is none.
    fn replace(&self, address: usize) -> bool {
        // ORDERING: Relaxed, all of them; the range does not change while it is accessed, and `has` has
        // seen (Acquire) the version that has these values. The size of pages was stored before any range
        // was registered.
        let (page, from) = (PAGE.load(Ordering::Relaxed), self.from.load(Ordering::Relaxed));
        let writable = self.writable.load(Ordering::Relaxed);
        let (id, is_hint) = (self.id.load(Ordering::Relaxed), self.is_hint.load(Ordering::Relaxed));
        let faults = self.faults.load(Ordering::Relaxed);
        let start = address & !(page - 1);
        let offset = (start - from) as u64;
        // ORDERING: Release on success; pairs with the Acquire load in `Watched::failed`, and comes before
        // the page is replaced, which is a system call. Relaxed on failure: the first one counts.
        let (success, failure) = (Ordering::Release, Ordering::Relaxed);
        let _ = self.failed.compare_exchange(0, offset + 1, success, failure);
        let file = FileName { id: id as u32, is_hint };
        // SAFETY: the pointer of an `Arc` that the `Watched` of this range keeps. That outlives the mapping,
        // which is accessed right now.
        unsafe { &*faults }.record(Fault { file, offset });
        put_memory_in_place_of(start, page, writable)
    }
}

impl Block {
    const fn new() -> Self {
        Self { slots: [const { Slot::new() }; SLOTS], next: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The next one, if there is any.
    fn next(&self) -> Option<&'static Self> {
        // ORDERING: Acquire; pairs with the Release store in `free_slot`: the block is seen as it was made.
        let next = self.next.load(Ordering::Acquire);
        // SAFETY: null, or a block that was leaked, and lives as long as the process.
        unsafe { next.as_ref() }
    }
}

/// A slot for another range. The caller has locked `REGISTERING`.
fn free_slot() -> &'static Slot {
    let mut block = &TABLE;
    loop {
        if let Some(slot) = block.slots.iter().find(|slot| slot.is_free()) {
            return slot;
        }
        block = match block.next() {
            Some(next) => next,
            None => {
                let new: &'static Block = Box::leak(Box::new(Block::new()));
                // ORDERING: Release; pairs with the Acquire load in `Block::next`.
                block.next.store(std::ptr::from_ref(new).cast_mut(), Ordering::Release);
                new
            }
        };
    }
}

/// A range of a map that is registered, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    slot: &'static Slot,
    /// Recorded in by the handler, through a pointer of its slot.
    _faults: Arc<Faults>,
}

impl Watched {
    /// Registers a range that begins at a page. To be called before the range is accessed, and to be dropped
    /// before it is unmapped. SIGBUS is [caught](catch).
    pub(crate) fn new(
        from: usize,
        len: usize,
        writable: bool,
        file: FileName,
        faults: Arc<Faults>,
    ) -> Self {
        let _registering = REGISTERING.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = free_slot();
        // To the end of the last page.
        // ORDERING: Relaxed; stored before anything was registered.
        let end = (from + len).next_multiple_of(PAGE.load(Ordering::Relaxed));
        slot.set((from, end), writable, file, Arc::as_ptr(&faults).cast_mut());
        Self { slot, _faults: faults }
    }

    /// The offset of the page in it that failed first, if one did. What was loaded before this call is not
    /// from a page that was replaced, if this is `None`.
    pub(crate) fn failed(&self) -> Option<u64> {
        // ORDERING: Acquire fence; pairs with the handler's Release, by way of the page that it replaced:
        // the caller's loads, of which one may be from that page, come before the load below.
        fence(Ordering::Acquire);
        // ORDERING: Acquire; pairs with the Release exchange in `replace`.
        self.slot.failed.load(Ordering::Acquire).checked_sub(1)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _registering = REGISTERING.lock().unwrap_or_else(PoisonError::into_inner);
        self.slot.set((0, 0), false, FileName { id: 0, is_hint: false }, std::ptr::null_mut());
    }
}

/// Catches SIGBUS in this process from now on, if it is not caught yet.
pub(crate) fn catch() -> io::Result<()> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    // SAFETY: it only asks.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // ORDERING: Relaxed; stored before a range is registered, which is after this.
    PAGE.store(usize::try_from(page).unwrap_or(4096), Ordering::Relaxed);
    let before = current()?;
    keep(&before);
    let mut action = before;
    action.sa_sigaction = on_sigbus as *const () as usize;
    // What the one before asked for (its mask is that of `action`) holds while it is called from here, too.
    action.sa_flags = libc::SA_SIGINFO
        | libc::SA_ONSTACK
        | before.sa_flags & (libc::SA_RESTART | libc::SA_NODEFER);
    let mut before = before;
    // SAFETY: both point to a `sigaction`; the handler does what a handler may, see the module.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // If another one was installed since it was asked for.
    keep(&before);
    *installed = true;
    Ok(())
}

/// What is done with SIGBUS now.
fn current() -> io::Result<libc::sigaction> {
    // SAFETY: plain numbers, of which all may be zero.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: it only asks, and is answered in a `sigaction`.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut action) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action)
}

fn keep(before: &libc::sigaction) {
    // ORDERING: Relaxed; the handler is installed by a system call after it. If another thread replaces the
    // action at the same time, a signal may go to the one that was asked for first.
    PREVIOUS_FLAGS.store(before.sa_flags, Ordering::Relaxed);
    // ORDERING: Relaxed; as above.
    PREVIOUS.store(before.sa_sigaction, Ordering::Relaxed);
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: valid for as long as the thread lives.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    // SAFETY: the kernel passes it to a handler with SA_SIGINFO, and it is valid until that returns.
    let told = unsafe { &*info };
    let code = told.si_code;
    let is_ours = is_access(code) && {
        // SAFETY: of an access the kernel tells the address.
        let address = unsafe { told.si_addr() };
        find(address.addr()).is_some_and(|slot| slot.replace(address.addr()))
    };
    if !is_ours {
        pass_on(signal, code, info, context);
    }
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// Whether a thread has accessed a page that the kernel cannot provide. Any other signal was sent, is of an
/// address that is not aligned, or tells of memory that fails and is not accessed.
const fn is_access(code: libc::c_int) -> bool {
    const BUS_MCEERR_AR: libc::c_int = 4;
    code == libc::BUS_ADRERR || code == BUS_MCEERR_AR
}

/// The slot of the range that an address is in.
fn find(address: usize) -> Option<&'static Slot> {
    let mut block = Some(&TABLE);
    while let Some(this) = block {
        if let Some(slot) = this.slots.iter().find(|slot| slot.has(address)) {
            return Some(slot);
        }
        block = this.next();
    }
    None
}

/// Puts private memory in the place of a mapped page, with what can be read of that. If two threads do this
/// at once, what one of them has stored since may be gone; neither store is ever acknowledged.
fn put_memory_in_place_of(start: usize, page: usize, writable: bool) -> bool {
    let (both, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new memory, where the kernel likes.
    let new = unsafe { libc::mmap(std::ptr::null_mut(), page, both, flags, -1, 0) };
    if new == libc::MAP_FAILED {
        return false;
    }
    let place = std::ptr::with_exposed_provenance_mut::<libc::c_void>(start);
    let (to, from) = (
        libc::iovec { iov_base: new, iov_len: page },
        libc::iovec { iov_base: place, iov_len: page },
    );
    // SAFETY: it only asks.
    let process = unsafe { libc::getpid() };
    // If a store failed for want of space, the page can be read. If it cannot, or the call is not allowed,
    // the memory stays zero.
    // SAFETY: the kernel reads from one page, which may fail, and writes to the other one, which is new.
    unsafe { libc::process_vm_readv(process, &raw const to, 1, &raw const from, 1, 0) };
    if !writable {
        // If it cannot be protected, only a guard against stray stores is missing.
        // SAFETY: the new page, of which nobody else knows.
        unsafe { libc::mprotect(new, page, libc::PROT_READ) };
    }
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the page is one of a registered range, so it belongs to a map of this crate, which is alive: it
    // is accessed right now. It is replaced at once, with no moment at which nothing is mapped there. Those
    // who have references into it find the same bytes, or zeros where there is no byte any more; nobody
    // relies on more than that, see the module.
    let moved = unsafe { libc::mremap(new, page, page, flags, place) };
    if moved == libc::MAP_FAILED {
        // SAFETY: the new page, of which nobody else knows.
        unsafe { libc::munmap(new, page) };
    }
    moved != libc::MAP_FAILED
}

/// Does what would have been done with the signal without this handler.
fn pass_on(
    signal: libc::c_int,
    code: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // ORDERING: Relaxed, both; as in `keep`.
    let (previous, flags) =
        (PREVIOUS.load(Ordering::Relaxed), PREVIOUS_FLAGS.load(Ordering::Relaxed));
    let was_sent = code <= 0;
    match previous {
        // Of an access that failed, ignoring is not possible: the kernel ends the process.
        libc::SIG_IGN if was_sent => {}
        libc::SIG_IGN | libc::SIG_DFL => end_by(signal, code),
        handler => {
            if flags & libc::SA_RESETHAND != 0 {
                // ORDERING: Relaxed; as in `keep`.
                PREVIOUS.store(libc::SIG_DFL, Ordering::Relaxed);
            }
            let handler = std::ptr::with_exposed_provenance::<()>(handler);
            if flags & libc::SA_SIGINFO == 0 {
                // SAFETY: it was installed as a handler with one argument.
                let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
                return handler(signal);
            }
            type WithInfo = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: it was installed as a handler with three arguments.
            let handler: WithInfo = unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
    }
}

/// Has the signal end the process, as it does by default.
fn end_by(signal: libc::c_int, code: libc::c_int) {
    // SAFETY: plain numbers, of which all may be zero: the default action, and no flags.
    let action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: it points to a `sigaction`.
    unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    // An access is tried again, and ends the process with the right address. Anything else is sent again.
    if !is_access(code) && code != libc::BUS_ADRALN && code != libc::BUS_OBJERR {
        // SAFETY: it sends a signal to this thread, which is blocked until the handler has returned.
        unsafe { libc::raise(signal) };
    }
}
