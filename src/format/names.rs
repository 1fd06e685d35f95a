//! The names of the files in a log's directory and in its `set-aside` folder.
//!
//! An incomplete file has the suffix `.tmp`, and the next open removes it. Files with other names than
//! these are ignored.

/// Says where the log begins, and which segments exist beside it.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// The MANIFEST before the last one; its blocks hold the next one on a full disk.
pub(crate) const MANIFEST_SPARE: &str = "MANIFEST.spare";
/// Reserved space, released when the disk is full.
pub(crate) const RESERVE: &str = "RESERVE";
/// Locked by the writer.
pub(crate) const LOCK: &str = "LOCK";
/// The folder of files that recovery set aside.
pub(crate) const SET_ASIDE: &str = "set-aside";

const TEMPORARY: &str = ".tmp";
const SEGMENT: &str = ".seg";
const HINT: &str = ".hint";
/// Digits of an id in a name.
const DIGITS: usize = 20;

/// The name of a file until it is complete.
pub(crate) fn temporary_name(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

pub(crate) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY)
}

/// Whether a name is the temporary name of one of the log's files.
pub(crate) fn is_own_temporary(name: &str) -> bool {
    name.strip_suffix(TEMPORARY).is_some_and(|name| {
        [MANIFEST, MANIFEST_SPARE, RESERVE].contains(&name) || is_segment_or_hint(name)
    })
}

/// Whether a name is of a file that only a log has: where there is none, there is no log.
pub(crate) fn is_of_a_log(name: &str) -> bool {
    name == MANIFEST || segment_id(name).is_some()
}

/// Whether a new log may be created beside a file of this name: creating a log makes such a file, or
/// leaves it behind, or the file system has it by itself.
pub(crate) fn may_be_beside_a_new_log(name: &str) -> bool {
    const LOST_AND_FOUND: &str = "lost+found";
    [LOCK, MANIFEST_SPARE, RESERVE, SET_ASIDE, LOST_AND_FOUND].contains(&name)
        || is_segment_or_hint(name)
        || is_own_temporary(name)
}

/// The name of a segment's file.
pub(crate) fn segment_name(id: u32) -> String {
    format!("{id:020}{SEGMENT}")
}

/// The id in a name that `segment_name` made, `None` for any other.
pub(crate) fn segment_id(name: &str) -> Option<u32> {
    id_of(name.strip_suffix(SEGMENT)?)
}

/// The name of a segment's hint.
pub(crate) fn hint_name(id: u32) -> String {
    format!("{id:020}{HINT}")
}

/// The id in a name that `hint_name` made, `None` for any other.
pub(crate) fn hint_id(name: &str) -> Option<u32> {
    id_of(name.strip_suffix(HINT)?)
}

pub(crate) fn is_segment_or_hint(name: &str) -> bool {
    segment_id(name).or(hint_id(name)).is_some()
}

fn id_of(digits: &str) -> Option<u32> {
    let all_digits = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&id| all_digits && id > 0)
}

/// The path of a file that was set aside, from the log's directory.
pub(crate) fn set_aside_path(name: &str) -> String {
    format!("{SET_ASIDE}/{name}")
}

/// The name of the file with the bytes that recovery cut off behind the end of a segment.
pub(crate) fn cut_tail_name(id: u32, end: u64) -> String {
    format!("{id:020}.{end}.cut")
}

/// The name of a whole segment that was behind the end of the log.
pub(crate) fn cut_segment_name(id: u32) -> String {
    format!("{id:020}{SEGMENT}.cut")
}

/// The name of a damaged segment that was replaced by a sound one.
pub(crate) fn damaged_segment_name(id: u32) -> String {
    format!("{id:020}{SEGMENT}.damaged")
}

/// The segment id in the name of a cut-off tail or segment; for a tail, also where the segment ends.
pub(crate) fn cut_id(name: &str) -> Option<(u32, Option<u64>)> {
    let (digits, rest) = name.split_at_checked(DIGITS)?;
    let id = id_of(digits)?;
    match rest.strip_suffix(".cut")? {
        SEGMENT => Some((id, None)),
        end => Some((id, Some(end.strip_prefix('.')?.parse().ok()?))),
    }
}

/// The id of the segment from which a file was set aside, from its name.
pub(crate) fn set_aside_id(name: &str) -> Option<u32> {
    id_of(name.get(..DIGITS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_ignored() {
        assert_eq!(segment_name(7), "00000000000000000007.seg");
        assert_eq!(segment_id(&segment_name(7)), Some(7));
        assert_eq!(segment_id(&segment_name(u32::MAX)), Some(u32::MAX));
        for stray in ["7.seg", "00000000000000000000.seg", "+0000000000000000007.seg", "x", ""] {
            assert_eq!(segment_id(stray), None, "{stray}");
        }
        assert_eq!(segment_id("00000000004294967296.seg"), None);
        assert_eq!(hint_id(&hint_name(7)), Some(7));
        assert_eq!(hint_id(&segment_name(7)), None);
        assert!(is_segment_or_hint(&hint_name(7)) && is_segment_or_hint(&segment_name(7)));
    }

    #[test]
    fn temporary_files_of_a_log_are_known() {
        for name in [MANIFEST, MANIFEST_SPARE, RESERVE, &segment_name(7), &hint_name(7)] {
            assert!(is_own_temporary(&temporary_name(name)) && !is_own_temporary(name));
        }
        for name in ["x.tmp", ".tmp", "LOCK.tmp"] {
            assert!(is_temporary(name) && !is_own_temporary(name));
        }
    }

    #[test]
    fn a_new_log_may_be_created_beside_its_own_files_only() {
        for name in [MANIFEST, &segment_name(7)] {
            assert!(is_of_a_log(name));
        }
        for name in [LOCK, MANIFEST_SPARE, RESERVE, SET_ASIDE, "lost+found", &hint_name(7)] {
            assert!(!is_of_a_log(name) && may_be_beside_a_new_log(name), "{name}");
        }
        assert!(may_be_beside_a_new_log(&temporary_name(MANIFEST)));
        for name in ["notes.txt", "CURRENT", "7.seg", "x.tmp", "lost+found2", ""] {
            assert!(!is_of_a_log(name) && !may_be_beside_a_new_log(name), "{name}");
        }
    }

    #[test]
    fn what_was_set_aside_says_of_which_segment() {
        assert_eq!(cut_tail_name(7, 4096), "00000000000000000007.4096.cut");
        assert_eq!(cut_segment_name(7), "00000000000000000007.seg.cut");
        assert_eq!(cut_id(&cut_tail_name(7, 4096)), Some((7, Some(4096))));
        assert_eq!(cut_id(&cut_segment_name(7)), Some((7, None)));
        for stray in ["00000000000000000007.seg", "00000000000000000007.x.cut", "7.seg.cut", ""] {
            assert_eq!(cut_id(stray), None, "{stray}");
        }
        let all = [cut_tail_name(7, 8), cut_segment_name(7), damaged_segment_name(7)];
        assert!(all.iter().all(|name| set_aside_id(name) == Some(7)));
    }
}
