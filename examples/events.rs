//! Event sourcing. One process records what happened in a log; another one, which may be started, stopped
//! and killed at any time, follows the log and keeps a view of it in a store.
//!
//! ```sh
//! cargo run --bin events -- record /tmp/bank/log      # type: ada 100
//! cargo run --bin events -- project /tmp/bank/log /tmp/bank/view
//! cargo run --bin events -- balance /tmp/bank/view ada
//! ```

use serde::{Deserialize, Serialize};
use std::io::BufRead;
use std::time::Duration;
use tailcask::{Batch, Checkpoint, CheckpointError, CommitLog, Durability, LogReader, Store};

type Failure = Box<dyn std::error::Error>;

/// What happened. Bytes are bytes to tailcask: how they are made, here by serde, is up to the program.
#[derive(Serialize, Deserialize)]
enum Event {
    Deposited { account: String, cents: i64 },
    Withdrawn { account: String, cents: i64 },
}

impl Event {
    /// `ada 100`, `ada -30`
    fn parse(line: &str) -> Result<Self, Failure> {
        let (account, cents) = line.split_once(' ').ok_or("a line is: ACCOUNT CENTS")?;
        let (account, cents) = (account.to_owned(), cents.trim().parse::<i64>()?);
        Ok(match cents {
            0.. => Self::Deposited { account, cents },
            _ => Self::Withdrawn { account, cents: -cents },
        })
    }

    fn effect(&self) -> (&str, i64) {
        match self {
            Self::Deposited { account, cents } => (account, *cents),
            Self::Withdrawn { account, cents } => (account, -cents),
        }
    }
}

/// Records a line at a time; what it has printed the position of is on the device.
fn record(dir: &str) -> Result<(), Failure> {
    let log = CommitLog::options().durability(Durability::Synced).open(dir)?;
    for line in std::io::stdin().lock().lines() {
        let event = serde_json::to_vec(&Event::parse(&line?)?)?;
        println!("{}", log.append(&event)?);
    }
    log.close()?;
    Ok(())
}

/// A reader that continues where the view is, or at the beginning if the log is not the one that the view
/// is of, or has lost events that the view has: to a power loss, or because it was replaced.
fn resume<'a>(log: &'a CommitLog, view: &Store) -> Result<LogReader<'a>, Failure> {
    let Some(bytes) = view.get("checkpoint")? else { return start_over(log, view) };
    match log.reader_from_checkpoint(&Checkpoint::from_bytes(bytes[..].try_into()?)) {
        Ok(reader) => Ok(reader),
        Err(CheckpointError::Truncated { position, begin }) => {
            Err(format!("the events from {position} to {begin} were dropped unseen").into())
        }
        Err(CheckpointError::Read(error)) => Err(error.into()),
        Err(_) => start_over(log, view),
    }
}

/// A view is derived: whatever is wrong with it, it can be made again.
fn start_over<'a>(log: &'a CommitLog, view: &Store) -> Result<LogReader<'a>, Failure> {
    for key in view.keys() {
        view.delete(key?)?;
    }
    Ok(log.reader())
}

/// Follows the log for as long as it runs. An event's effect and the checkpoint are one batch, so every
/// event counts once, wherever the process was killed before.
fn project(dir: &str, view: &str) -> Result<(), Failure> {
    let log = CommitLog::open_read_only(dir)?; // beside the writer, without a lock
    let view = Store::open(view)?;
    let mut reader = resume(&log, &view)?;
    loop {
        let event: Event = match reader.wait_entry(Duration::from_secs(1))? {
            Some(entry) => serde_json::from_slice(&entry)?,
            None => continue,
        };
        let (account, effect) = event.effect();
        let key = format!("account/{account}");
        let mut batch = Batch::new();
        batch.put(&key, (balance(view.get(&key)?.as_deref())? + effect).to_le_bytes());
        batch.put("checkpoint", reader.checkpoint().to_bytes());
        view.write(&batch)?;
    }
}

fn balance(value: Option<&[u8]>) -> Result<i64, Failure> {
    Ok(value.map_or(Ok(0), |bytes| bytes.try_into().map(i64::from_le_bytes))?)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["record", log] => record(log),
        ["project", log, view] => project(log, view),
        ["balance", view, account] => {
            let view = Store::open_read_only(view)?; // beside the consumer, if one is running
            let value = view.get(format!("account/{account}"))?;
            println!("{}", balance(value.as_deref())?);
            Ok(())
        }
        _ => Err("usage: events record LOG | project LOG VIEW | balance VIEW ACCOUNT".into()),
    }
}
