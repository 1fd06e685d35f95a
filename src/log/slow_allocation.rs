//! Tests: writers roll while a large file is being allocated.

use super::CommitLog;
use crate::error::OpenError;
use crate::options::{Config, Maintenance};
use crate::storage::simulated::{SimulatedDisk, SimulatedStorage};
use crate::storage::{Access, HeadEncoder, Opened, Pieces, Prepared, Storage};
use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const LARGE: u64 = 1 << 20;
/// A guard against hangs: far longer than anything here takes.
const GUARD: Duration = Duration::from_secs(20);

/// A disk on which allocating a large file takes until the test lets it go on.
#[derive(Debug)]
struct Slow {
    disk: Box<dyn Storage>,
    begun: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Storage for Slow {
    fn prepare(&self, len: u64) -> io::Result<Prepared> {
        if len >= LARGE {
            self.begun.send(()).map_err(io::Error::other)?;
            let told = self.go_on.lock().unwrap().recv_timeout(GUARD);
            told.map_err(|_| io::Error::other("others had to wait for this"))?;
        }
        self.disk.prepare(len)
    }

    fn boot_id(&self) -> Option<u128> {
        self.disk.boot_id()
    }
    fn list(&self) -> Result<Vec<String>, OpenError> {
        self.disk.list()
    }
    fn create(&self, name: &str, len: u64, head: HeadEncoder<'_>) -> io::Result<Opened> {
        self.disk.create(name, len, head)
    }
    fn open(&self, name: &str, access: Access) -> Result<Opened, OpenError> {
        self.disk.open(name, access)
    }
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.disk.publish(name, bytes)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }
    fn set_aside(&self, name: &str, to: &str) -> io::Result<String> {
        self.disk.set_aside(name, to)
    }
    fn link_aside(&self, name: &str, to: &str) -> io::Result<String> {
        self.disk.link_aside(name, to)
    }
    fn keep_aside(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()> {
        self.disk.keep_aside(name, len, pieces)
    }
    fn bring_back(&self, name: &str, to: &str) -> io::Result<()> {
        self.disk.bring_back(name, to)
    }
    fn replace(&self, name: &str, len: u64, pieces: Pieces<'_>) -> io::Result<()> {
        self.disk.replace(name, len, pieces)
    }
    fn aside(&self) -> Result<Vec<(String, u64)>, OpenError> {
        self.disk.aside()
    }
    fn read_manifest(&self) -> Result<Option<Vec<u8>>, OpenError> {
        self.disk.read_manifest()
    }
    fn write_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        self.disk.write_manifest(bytes)
    }
}

fn others_roll_meanwhile(slow: impl FnOnce(&CommitLog) + Send) {
    let (begin, begun) = channel();
    let (tell, told) = channel();
    let disk = Box::new(SimulatedStorage::attach(&SimulatedDisk::new()).unwrap());
    let storage = Slow { disk, begun: begin, go_on: Mutex::new(told) };
    let config = Config {
        segment_unit: 64 << 10,
        segment_size: 64 << 10,
        initial_segment_size: 64 << 10,
        maintenance: Maintenance::Manual,
        ..Config::default()
    };
    let log = CommitLog::start(Box::new(storage), config).unwrap();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| slow(&log));
        begun.recv_timeout(GUARD).unwrap();
        for n in 0..50u8 {
            log.append(&[n; 10_000]).unwrap();
        }
        assert!(log.stats().rolls >= 7);
        tell.send(()).unwrap();
        slow.join().unwrap();
    });
    assert!(log.stats().entries >= 50);
    log.verify().unwrap();
    log.close().unwrap();
}

#[test]
fn writers_roll_while_the_segment_of_a_large_entry_is_allocated() {
    others_roll_meanwhile(|log| {
        let position = log.append(&vec![7; LARGE as usize]).unwrap();
        assert_eq!(&*log.read(position).unwrap(), &vec![7; LARGE as usize][..]);
    });
}

#[test]
fn writers_roll_while_the_segment_of_a_merge_is_allocated() {
    others_roll_meanwhile(|log| {
        let segment = log.writer().unwrap().create_merged(LARGE, &[]).unwrap();
        assert!(segment.header.merged);
    });
}
