//! A part of a file that the device cannot read: no call that covers it succeeds, however often it is made.

use super::directory;
use crate::common::{children, contents, segment, store_by_hand as options, within};
use crash_kit::tracer::{Action, Call, Tracer};
use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;

/// What cannot be read: some page in the middle.
const UNREADABLE: Range<u64> = 100 * 4096..101 * 4096;
const VALUE: usize = 1000;
const KEYS: u32 = 600;
/// A header, a key and a value.
const FRAME: u64 = (16 + 7 + VALUE as u64).next_multiple_of(8);

fn key(nth: u32) -> String {
    format!("key {nth:03}")
}

/// Says which frames are gone.
pub(crate) fn work(place: &Path) {
    let report = options().repair(place.join("store"), place.join("copy"));
    for lost in report.expect("what cannot be read is left out").gone {
        children::say(&format!("{} {}", lost.position, lost.length));
    }
}

fn covers(call: &Call<'_>, file: &Path) -> bool {
    let (len, at) = (call.args()[2], call.args()[3]);
    call.fd_path(call.int(0)).is_ok_and(|path| path == file)
        && at < UNREADABLE.end
        && at + len > UNREADABLE.start
}

#[test]
fn a_repaired_copy_lacks_what_cannot_be_read_and_nothing_else() {
    if let Some(why) = crash_kit::unsupported() {
        eprintln!("left out: {why}");
        return;
    }
    let dir = directory();
    let place = dir.path().to_owned();
    let store = options().open(place.join("store")).unwrap();
    let (mut hit, mut frames) = (BTreeSet::new(), BTreeSet::new());
    for nth in 0..KEYS {
        let position = store.put(key(nth), [nth as u8; VALUE]).unwrap();
        let at = u64::from(position.offset());
        if at < UNREADABLE.end && at + FRAME > UNREADABLE.start {
            hit.insert(key(nth));
            frames.insert(format!("{position} {FRAME}"));
        }
    }
    let id = store.log().tail().segment();
    store.close().unwrap();
    assert!(hit.len() > 3, "{hit:?}");
    let file = place.canonicalize().unwrap().join("store").join(segment(id));
    let said = within(move || {
        let mut command = children::command("repair", &place);
        command.stderr(Stdio::piped());
        let mut tracer =
            Tracer::spawn(command, &[libc::SYS_pread64, libc::SYS_ioctl]).expect("traced");
        let mut refused = 0;
        let status = tracer.run(|call| {
            if call.number() == libc::SYS_ioctl {
                // No blocks are shared with the copy.
                return Action::Fail(libc::EOPNOTSUPP);
            }
            if !covers(call, &file) {
                return Action::Pass;
            }
            refused += 1;
            Action::Fail(libc::EIO)
        });
        let mut said = String::new();
        tracer.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(status.expect("traced").success(), "{said}");
        assert!(refused > 1, "the page is tried by itself");
        said
    });
    let gone = said.lines().filter_map(|line| line.strip_prefix("child: "));
    assert_eq!(gone.map(str::to_owned).collect::<BTreeSet<_>>(), frames);
    let copy = options().open(dir.path().join("copy")).unwrap();
    let found = contents(&copy);
    for nth in 0..KEYS {
        let expected = (!hit.contains(&key(nth))).then(|| vec![nth as u8; VALUE]);
        assert_eq!(found.get(key(nth).as_bytes()), expected.as_ref(), "{}", key(nth));
    }
    assert_eq!(found.len() + hit.len(), KEYS as usize);
}
