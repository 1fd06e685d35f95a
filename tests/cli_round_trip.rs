//! What `export` writes, `load` reads: in each format, the same pairs come back.
#![cfg(feature = "cli")]

mod common;

use common::cli::run_to;
use common::rounds;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tailcask::{Store, WriteOptions};

/// A value, and when it expires, in milliseconds since 1970.
type Content = BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>;

/// Bytes that mean something in one of the formats, and others.
fn nasty() -> impl Strategy<Value = u8> {
    let special = prop::sample::select(b"\t\n\r\\\",;: =n0\0\xff\xc3\xbf'{}[]#".to_vec());
    prop_oneof![special, any::<u8>(), b'a'..=b'c']
}

fn pairs() -> impl Strategy<Value = BTreeMap<Vec<u8>, (Vec<u8>, Option<u32>)>> {
    let value = (vec(nasty(), 0..12), prop::option::weighted(0.3, 1_000_000u32..));
    btree_map(vec(nasty(), 1..8), value, 0..12)
}

fn content(dir: &Path) -> Content {
    let store = Store::open_read_only(dir).unwrap();
    let pairs = store.iter().map(|pair| {
        let pair = pair.unwrap();
        let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let expires = pair.expires_at().map(|at| since(at).as_millis() as u64);
        (pair.key().to_vec(), (pair.value().to_vec(), expires))
    });
    pairs.collect()
}

/// Compares two stores. What is loaded is put for as long as is left, so it may expire later by as long as
/// the load took.
fn assert_same(copy: &Content, original: &Content, took: Duration) {
    assert!(copy.keys().eq(original.keys()), "{copy:?}, not {original:?}");
    for (key, (value, expires)) in original {
        let (copied, later) = &copy[key];
        assert_eq!(copied, value, "{key:?}");
        assert_eq!(later.is_some(), expires.is_some(), "{key:?}");
        let by = later.unwrap_or_default().checked_sub(expires.unwrap_or_default());
        assert!(by.is_some_and(|by| u128::from(by) <= took.as_millis() + 2), "{key:?}: {by:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds(12) as u32))]
    #[test]
    fn every_pair_comes_back_in_every_format(pairs in pairs()) {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let store = Store::open(place("store")).unwrap();
        for (key, (value, seconds)) in &pairs {
            let options = WriteOptions::new();
            let options = match seconds {
                Some(seconds) => options.ttl(Duration::from_secs((*seconds).into())),
                None => options,
            };
            store.put_with(key, value, &options).unwrap();
        }
        store.close().unwrap();
        let original = content(&place("store"));
        prop_assert_eq!(original.len(), pairs.len());
        for format in ["tsv", "csv", "ndjson"] {
            for base64 in [&[][..], &["--base64"]] {
                let name = |path: &str| place(path).to_str().unwrap().to_owned();
                let (store, file) = (name("store"), name(&format!("file.{format}")));
                let copy = name(&format!("copy.{format}{}", base64.len()));
                let started = std::time::Instant::now();
                run_to(0, &[&["export", store.as_str(), &file], base64].concat());
                run_to(0, &[&["load", copy.as_str(), &file], base64].concat());
                assert_same(&content(Path::new(&copy)), &original, started.elapsed());
                let exported = std::fs::read(&file).unwrap();
                prop_assert!(std::str::from_utf8(&exported).is_ok() || format != "ndjson" && base64.is_empty());
            }
        }
    }
}

/// A store, and the file that is loaded into it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Loads a file with this content, and gives the message.
    fn load(&self, code: i32, name: &str, content: &str, args: &[&str]) -> String {
        let file = self.path(name);
        std::fs::write(&file, content).unwrap();
        run_to(code, &[&["load", self.path("store").as_str(), &file], args].concat()).1
    }

    fn get(&self, key: &str) -> String {
        run_to(0, &["get", &self.path("store"), key]).0
    }

    fn has(&self, code: i32, key: &str) {
        run_to(code, &["get", &self.path("store"), key]);
    }
}

#[test]
fn two_columns_are_a_key_and_a_value_and_more_have_to_be_named() {
    let place = Place::new();
    place.load(0, "a.tsv", "k1\tone\n", &[]);
    place.load(0, "a.tsv", "two\tk2\n", &["--key", "2"]);
    place.load(0, "a.csv", "name,id\nthree,k3\n", &["--key", "id"]);
    place.load(0, "a.csv", "k4,four\n", &["--no-header"]);
    place.load(0, "a.csv", "x,value,key\n,five,k5\n", &[]);
    place.load(0, "a.ndjson", "{\"id\":\"k6\",\"value\":6,\"more\":[]}\n", &["--key", "id"]);
    for (key, value) in
        [("k1", "one"), ("k2", "two"), ("k3", "three"), ("k4", "four"), ("k5", "five"), ("k6", "6")]
    {
        assert_eq!(place.get(key), value);
    }
    let three = "a\tb\tc\n";
    let message = place.load(6, "a.tsv", three, &[]);
    assert!(message.contains("line 1: the line has 3 columns: say which"), "{message}");
    let message = place.load(6, "a.tsv", "a\n", &[]);
    assert!(message.contains("line 1: the line has 1 column: say which"), "{message}");
    place.load(0, "a.tsv", three, &["--value", "3"]);
    assert_eq!(place.get("a"), "c");
    place.load(0, "a.tsv", three, &["--whole-line"]);
    assert_eq!(place.get("a"), "a\tb\tc");
    let message = place.load(2, "a.csv", "a,b,c\n1,2,3\n", &[]);
    assert!(message.contains("the header has 3 columns: say which"), "{message}");
    let message = place.load(6, "a.ndjson", "{\"key\":1}\n", &[]);
    assert!(
        message.contains("--whole-line") && message.contains("no field \"value\""),
        "{message}"
    );
}

/// So a batch is there completely or not at all, whatever is in it.
#[test]
fn pairs_that_expire_are_in_the_same_batches_as_the_others() {
    let place = Place::new();
    let lines = "a\tv\nb\tv\texpires=99999999999999\na\tv\texpires=1\nc\tv\n";
    place.load(0, "a.tsv", lines, &[]);
    place.load(0, "a.tsv", "d\tv\ne\tv\n", &["--ttl", "1d"]);
    let frames = run_to(0, &["log", "inspect", &place.path("store")]).0;
    let count = |kind: &str| frames.matches(&format!(" {kind} ")).count();
    assert_eq!(["batch", "put", "delete"].map(count), [2, 5, 1], "{frames}");
    ["b", "c", "d", "e"].iter().for_each(|key| place.has(0, key));
    place.has(1, "a");
}

#[test]
fn what_has_expired_is_not_loaded_and_hides_what_came_before() {
    let place = Place::new();
    let lines = "k\told\nk\tv\texpires=1\nother\tv\texpires=99999999999999\n";
    let message = place.load(0, "a.tsv", lines, &[]);
    assert!(message.contains("1 of them had expired before"), "{message}");
    place.has(1, "k");
    place.has(0, "other");
    place.load(0, "a.tsv", "last\told\nlast\tnew\texpires=99999999999999\n", &[]);
    assert_eq!(place.get("last"), "new", "the last line counts, whether it expires or not");
    place.load(0, "a.csv", "key,value,expires_ms\nk,v,\nother,v,1\n", &[]);
    place.has(0, "k");
    place.has(1, "other");
    place.load(0, "a.ndjson", "{\"key\":\"k\",\"value\":1,\"expires_ms\":\"1\"}\n", &[]);
    place.has(1, "k");
    place.load(0, "a.csv", "until,key,value\n1,k,v\n", &[]);
    place.has(0, "k");
    place.load(0, "a.csv", "until,key,value\n1,k,v\n", &["--expires", "until"]);
    place.has(1, "k");
    for (name, line) in [
        ("a.tsv", "k\tv\texpires=tomorrow\n"),
        ("a.csv", "key,value,expires_ms\nk,v,-1\n"),
        ("a.ndjson", "{\"key\":1,\"value\":1,\"expires_ms\":\"x\"}\n"),
    ] {
        let message = place.load(6, name, line, &[]);
        assert!(message.contains("is not a time in milliseconds since 1970"), "{message}");
    }
}
