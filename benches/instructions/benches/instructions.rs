//! Instructions of the operations, by callgrind. `scripts/instructions.sh` compares them with what is
//! in counts.txt. A name ends in how many operations are measured together.

use gungraun::{library_benchmark, library_benchmark_group, main};
use std::hint::black_box;
use std::path::PathBuf;
use tailcask::{Batch, CommitLog, Store};
use tailcask_instructions::{KEYS, Key, On, TIMES, VALUE, closed, keys, log, open, store};

type OnLog = (On<CommitLog>, Vec<u8>);

fn append(on: OnLog) -> OnLog {
    for _ in 0..TIMES {
        black_box(on.0.it.append(&on.1).expect("appended"));
    }
    on
}

#[library_benchmark(setup = log)]
#[bench::of(100)]
fn append_100_bytes_x1000(on: OnLog) -> OnLog {
    append(on)
}

#[library_benchmark(setup = log)]
#[bench::of(4096)]
fn append_4096_bytes_x1000(on: OnLog) -> OnLog {
    append(on)
}

#[library_benchmark(setup = log)]
#[bench::of(100)]
fn append_in_batches_of_100_x1000(on: OnLog) -> OnLog {
    let entries = [&on.1[..]; 100];
    for _ in 0..TIMES / 100 {
        black_box(on.0.it.append_batch(&entries).expect("appended"));
    }
    on
}

type OnStore = (On<Store>, Vec<Key>);

fn there() -> OnStore {
    (store(), keys(0, KEYS))
}

fn not_there() -> OnStore {
    (store(), keys(KEYS, KEYS))
}

fn put(on: OnStore) -> OnStore {
    for key in &on.1 {
        black_box(on.0.it.put(key, VALUE).expect("put"));
    }
    on
}

#[library_benchmark(setup = not_there)]
#[bench::of()]
fn put_new_x1000(on: OnStore) -> OnStore {
    put(on)
}

#[library_benchmark(setup = there)]
#[bench::of()]
fn put_overwrite_x1000(on: OnStore) -> OnStore {
    put(on)
}

#[library_benchmark(setup = there)]
#[bench::of()]
fn write_batches_of_100_x1000(on: OnStore) -> OnStore {
    for keys in on.1.chunks(100) {
        let mut batch = Batch::new();
        for key in keys {
            batch.put(key, VALUE);
        }
        black_box(on.0.it.write(&batch).expect("written"));
    }
    on
}

#[library_benchmark(setup = there)]
#[bench::of()]
fn get_x1000(on: OnStore) -> OnStore {
    for key in &on.1 {
        black_box(on.0.it.get(key).expect("sound").expect("there")[0]);
    }
    on
}

#[library_benchmark(setup = not_there)]
#[bench::of()]
fn get_absent_x1000(on: OnStore) -> OnStore {
    for key in &on.1 {
        assert!(on.0.it.get(key).expect("sound").is_none());
    }
    on
}

#[library_benchmark(setup = there)]
#[bench::of()]
fn get_many_of_32_x992(on: OnStore) -> OnStore {
    for keys in on.1.chunks_exact(32) {
        for value in on.0.it.get_many(keys).expect("sound") {
            black_box(value.expect("there")[0]);
        }
    }
    on
}

#[library_benchmark(setup = there)]
#[bench::of()]
fn iterate_x10000(on: OnStore) -> OnStore {
    let mut count = 0;
    for pair in on.0.it.iter() {
        black_box(pair.expect("sound").value()[0]);
        count += 1;
    }
    assert_eq!(count, KEYS);
    on
}

#[library_benchmark(setup = there)]
#[bench::of()]
fn keys_x10000(on: OnStore) -> OnStore {
    let mut count = 0;
    for key in on.0.it.keys() {
        black_box(key.expect("sound")[0]);
        count += 1;
    }
    assert_eq!(count, KEYS);
    on
}

/// What was opened, and where.
type Opened = (Store, On<PathBuf>);

#[library_benchmark(setup = closed)]
#[bench::of(true)]
fn open_with_hints_x10000(on: On<PathBuf>) -> Opened {
    let store = open(&on.it);
    assert_eq!(store.len(), KEYS);
    (store, on)
}

#[library_benchmark(setup = closed)]
#[bench::of(false)]
fn open_by_scanning_x10000(on: On<PathBuf>) -> Opened {
    let store = open(&on.it);
    assert_eq!(store.len(), KEYS);
    (store, on)
}

library_benchmark_group!(
    name = log_operations,
    benchmarks = [append_100_bytes_x1000, append_4096_bytes_x1000, append_in_batches_of_100_x1000]
);

library_benchmark_group!(
    name = store_operations,
    benchmarks = [
        put_new_x1000,
        put_overwrite_x1000,
        write_batches_of_100_x1000,
        get_x1000,
        get_absent_x1000,
        get_many_of_32_x992,
        iterate_x10000,
        keys_x10000,
        open_with_hints_x10000,
        open_by_scanning_x10000,
    ]
);

main!(library_benchmark_groups = [log_operations, store_operations]);
