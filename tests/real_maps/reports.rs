//! What a child reports, line by line: each operation before it begins, and each that is acknowledged.

use rustix::io::Errno;

/// What lines of a child begin with: the test harness writes to the same output.
const SAYS: &str = "child: ";

const OPENING: &str = "opening";
const CLOSING: &str = "closing";

/// Whether the last that was reported is of this kind.
pub(crate) fn is_last(seen: &[Vec<u8>], kind: &str) -> bool {
    let rest = seen.last().and_then(|said| said.strip_prefix(SAYS.as_bytes()));
    rest.is_some_and(|said| said.starts_with(kind.as_bytes()))
}

/// A change of a key: its number, and whether it has a value afterwards.
pub(crate) type Change = (u64, bool);

/// A report, and how many calls had been seen when it was made.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) nth: usize,
    pub(crate) said: Said,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A writer begins its next step. Durable: it is when it is acknowledged.
    Begun {
        writer: u64,
        durable: bool,
        changes: Vec<Change>,
    },
    /// It is acknowledged, with its last position, if it has written anything.
    Done {
        writer: u64,
        position: Option<u64>,
    },
    /// It is refused: it has changed nothing.
    Refused {
        writer: u64,
    },
    /// Everything before this position is durable.
    Synced {
        position: u64,
    },
    /// The log does not begin after this position.
    Truncating {
        position: u64,
    },
    /// A backup begins, and is acknowledged with the position at which it ends.
    Backup {
        number: u64,
        position: Option<u64>,
    },
    /// What was found by one that goes on, key by key or entry by entry.
    Opened {
        found: Vec<(u64, u64, u64)>,
    },
    /// It writes one thing more; or has done so, durably.
    Later {
        done: bool,
    },
    /// A log or store is about to be opened.
    Opening,
    /// It is about to be closed, and is so: everything before this position is durable.
    Closing,
    Closed {
        position: u64,
    },
    /// Nothing is left of the space, and maintenance goes on; or that is over.
    Full {
        over: bool,
    },
    /// A repaired copy is about to be made, of something sound or of something damaged.
    Repairing {
        number: u64,
        damaged: bool,
    },
    /// It is there: checksums of names and of contents.
    Repaired {
        number: u64,
        files: Vec<(u64, u64)>,
    },
    /// What it has set aside by then: checksums of names and of contents.
    Aside {
        files: Vec<(u64, u64)>,
    },
}

/// Reports something, by one system call.
pub(crate) fn say(said: &Said) {
    let line = format!("{SAYS}{}\n", encode(said));
    loop {
        match rustix::io::write(std::io::stdout(), line.as_bytes()) {
            Err(Errno::INTR) => {}
            other => {
                assert_eq!(other, Ok(line.len()));
                return;
            }
        }
    }
}

fn encode(said: &Said) -> String {
    let maybe = |position: &Option<u64>| position.map_or("-".into(), |p| p.to_string());
    match said {
        Said::Begun { writer, durable, changes } => {
            let changes = changes.iter().map(|(key, put)| format!(" {key} {}", u8::from(*put)));
            format!("begun {writer} {}{}", u8::from(*durable), changes.collect::<String>())
        }
        Said::Done { writer, position } => format!("done {writer} {}", maybe(position)),
        Said::Refused { writer } => format!("refused {writer}"),
        Said::Synced { position } => format!("synced {position}"),
        Said::Truncating { position } => format!("truncating {position}"),
        Said::Backup { number, position } => format!("backup {number} {}", maybe(position)),
        Said::Opened { found } => {
            let found = found.iter().map(|(a, b, c)| format!(" {a} {b} {c}"));
            format!("opened{}", found.collect::<String>())
        }
        Said::Later { done } => format!("later {}", u8::from(*done)),
        Said::Opening => OPENING.into(),
        Said::Full { over } => format!("full {}", u8::from(*over)),
        Said::Closing => CLOSING.into(),
        Said::Closed { position } => format!("closed {position}"),
        Said::Repairing { number, damaged } => {
            format!("repairing {number} {}", u8::from(*damaged))
        }
        Said::Repaired { number, files } => format!("repaired {number}{}", pairs(files)),
        Said::Aside { files } => format!("aside{}", pairs(files)),
    }
}

fn pairs(files: &[(u64, u64)]) -> String {
    files.iter().map(|(name, content)| format!(" {name} {content}")).collect()
}

fn decode(line: &str) -> Said {
    let mut words = line.split(' ');
    let what = words.next().unwrap();
    let numbers: Vec<Option<u64>> = words.map(|word| word.parse().ok()).collect();
    let number = |nth: usize| numbers[nth].unwrap();
    let all = || numbers.iter().map(|number| number.unwrap());
    let pairs = |from| {
        let rest: Vec<_> = all().skip(from).collect();
        rest.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>()
    };
    match what {
        "begun" => {
            let changes = pairs(2).into_iter().map(|(key, put)| (key, put == 1)).collect();
            Said::Begun { writer: number(0), durable: number(1) == 1, changes }
        }
        "done" => Said::Done { writer: number(0), position: numbers[1] },
        "refused" => Said::Refused { writer: number(0) },
        "synced" => Said::Synced { position: number(0) },
        "truncating" => Said::Truncating { position: number(0) },
        "backup" => Said::Backup { number: number(0), position: numbers[1] },
        "opened" => {
            let all: Vec<_> = all().collect();
            Said::Opened { found: all.chunks_exact(3).map(|f| (f[0], f[1], f[2])).collect() }
        }
        "later" => Said::Later { done: number(0) == 1 },
        OPENING => Said::Opening,
        "full" => Said::Full { over: number(0) == 1 },
        CLOSING => Said::Closing,
        "closed" => Said::Closed { position: number(0) },
        "repairing" => Said::Repairing { number: number(0), damaged: number(1) == 1 },
        "repaired" => Said::Repaired { number: number(0), files: pairs(1) },
        "aside" => Said::Aside { files: pairs(0) },
        what => panic!("{what}"),
    }
}

/// All that a child said, of what the recorder has seen.
pub(crate) fn parse(seen: &[Vec<u8>]) -> Vec<Report> {
    let said = seen.iter().enumerate().filter_map(|(nth, bytes)| {
        let text = std::str::from_utf8(bytes).ok()?;
        let line = text.strip_prefix(SAYS)?.trim_end();
        Some(Report { nth, said: decode(line) })
    });
    said.collect()
}

/// What one that goes on had found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened<'r> {
    pub(crate) found: &'r [(u64, u64, u64)],
    /// Whether it then began to write one thing more, and whether that was acknowledged.
    pub(crate) begun: bool,
    pub(crate) done: bool,
}

/// Of the last one, by these reports.
pub(crate) fn last_opened(reports: &[Report]) -> Option<Opened<'_>> {
    let opened = |report: &Report| matches!(report.said, Said::Opened { .. });
    let at = reports.iter().rposition(opened)?;
    let Said::Opened { found } = &reports[at].said else { unreachable!("it was just found") };
    let is = |said| reports[at..].iter().any(|report| report.said == said);
    let (begun, done) = (is(Said::Later { done: false }), is(Said::Later { done: true }));
    Some(Opened { found, begun, done })
}

/// Those that were complete when this many had been seen.
pub(crate) fn complete(reports: &[Report], seen: usize) -> &[Report] {
    &reports[..reports.partition_point(|report| report.nth < seen)]
}

#[test]
fn what_is_said_is_understood() {
    let all = [
        Said::Begun { writer: 2, durable: true, changes: vec![(3, true), (4, false)] },
        Said::Begun { writer: 2, durable: false, changes: vec![] },
        Said::Done { writer: 1, position: Some(77) },
        Said::Done { writer: 1, position: None },
        Said::Refused { writer: 3 },
        Said::Synced { position: 5 },
        Said::Truncating { position: 6 },
        Said::Backup { number: 1, position: None },
        Said::Opened { found: vec![(1, 2, 3), (4, 5, 6)] },
        Said::Later { done: true },
        Said::Opening,
        Said::Full { over: false },
        Said::Full { over: true },
        Said::Closing,
        Said::Closed { position: 9 },
        Said::Repairing { number: 1, damaged: true },
        Said::Repaired { number: 1, files: vec![(7, 8), (9, 10)] },
        Said::Aside { files: vec![(7, 8)] },
    ];
    for said in all {
        assert_eq!(decode(&encode(&said)), said);
    }
}
