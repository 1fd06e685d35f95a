//! The README tells the truth: its examples run, and its commands and options exist.

use std::collections::BTreeSet;
use std::error::Error;

const README: &str = include_str!("../README.md");

/// The README's first example, verbatim.
mod store {
    use tailcask::{Batch, Durability, Store};

    pub(super) fn main() -> Result<(), Box<dyn std::error::Error>> {
        let store = Store::options().durability(Durability::Synced).open("my.db")?;

        store.put("colour", "green")?; // on the device when this returns
        let value = store.get("colour")?.expect("it was just put");
        assert_eq!(&*value, b"green"); // read in place, checksum verified

        let mut batch = Batch::new();
        batch.put("shape", "round").delete("colour");
        store.write(&batch)?; // all of it or nothing

        let merged = store.merge()?; // the store also merges in the background, as needed
        println!("{} bytes reclaimed", merged.bytes_reclaimed);
        store.backup("my.backup")?; // hard links; readers and writers carry on
        store.close()?;
        Ok(())
    }
}

/// The README's second example, verbatim.
mod log {
    use tailcask::{CommitLog, Durability};

    pub(super) fn main() -> Result<(), Box<dyn std::error::Error>> {
        let log = CommitLog::options().durability(Durability::Synced).open("my.log")?;

        let position = log.append(b"one record")?; // on the device when this returns
        log.append_batch(&[b"all", b"or", b"none"])?; // one reservation, one sync
        assert_eq!(&*log.read(position)?, b"one record"); // read in place, checksum verified

        let mut reader = log.reader();
        while let Some(entry) = reader.next_entry()? {
            println!("{} has {} bytes", entry.position(), entry.len());
        }
        log.close()?; // the next open has nothing to scan
        Ok(())
    }
}

/// Lines of code, without indentation and visibility.
fn lines(code: &str) -> Vec<&str> {
    let lines = code.lines().map(|line| line.trim().trim_start_matches("pub(super) "));
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_examples_run_and_are_the_ones_above() -> Result<(), Box<dyn Error>> {
    let above = lines(include_str!("readme.rs"));
    let blocks: Vec<_> = README.split("```rust\n").skip(1).collect();
    assert_eq!(blocks.len(), 2, "an example for the store, and one for the log");
    for block in blocks {
        let example = lines(block.split("```").next().unwrap_or_default());
        let same = above.windows(example.len()).any(|part| part == example);
        assert!(same, "copy this example into tests/readme.rs: {example:#?}");
    }
    let dir = tempfile::tempdir()?;
    std::env::set_current_dir(dir.path())?;
    store::main()?;
    log::main()
}

/// The rows of the table below a heading, by their first cell.
fn table<'t>(text: &'t str, heading: &str) -> Vec<(String, Vec<&'t str>)> {
    let below = text.split(heading).nth(1).expect(heading);
    let rows = below.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('*'));
        let name = cells.next().unwrap_or_default().to_lowercase().replace(" (c++)", "");
        (name, cells.collect())
    })
    .collect()
}

/// `0.51 M`, `508 k ±9%`, in millions, and what the last digit counts. `None`: not measured.
fn millions(cell: &str) -> Option<(f64, f64)> {
    let mut words = cell.split(' ');
    let number = words.next()?;
    let unit = if words.next()?.starts_with('M') { 1.0 } else { 1e-3 };
    let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    Some((number.parse::<f64>().ok()? * unit, unit / 10_f64.powi(decimals as i32)))
}

/// The README's figures are some of those in docs/benchmarks.md, rounded.
#[test]
fn its_figures_are_those_that_were_measured() {
    let measured = table(include_str!("../docs/benchmarks.md"), "### In memory, 1 thread");
    // Its columns fill, overwrite, get, get of 32 at once, batches, scan.
    let columns = [0, 1, 2, 4, 6, 9];
    let shown = table(README, "## Speed");
    for (name, cells) in &shown {
        let (_, row) = measured.iter().find(|(store, _)| store == name).expect(name);
        for (cell, column) in cells.iter().zip(columns) {
            match (millions(cell), millions(row[column])) {
                (Some((shown, digit)), Some((measured, _))) => assert!(
                    (shown - measured).abs() < digit * 0.501,
                    "{name}: {cell}, and measured were {}",
                    row[column]
                ),
                (shown, measured) => assert_eq!(shown, measured, "{name}: {cell}"),
            }
        }
    }
    assert_eq!(shown.len(), 8);
}

/// The features that a list names: `* \`name\`: ...`.
fn listed(text: &str, heading: &str) -> BTreeSet<String> {
    let section = text.split(heading).nth(1).expect(heading);
    let lines = section.lines().map(|line| line.trim_start_matches("//! "));
    let lines = lines.take_while(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.strip_prefix("* `")?.split_once('`'));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn it_lists_all_features_as_the_documentation_does() {
    let manifest = include_str!("../Cargo.toml");
    let features = manifest.split("[features]\n").nth(1).and_then(|rest| rest.split("\n[").next());
    let names = features.unwrap_or_default().lines().filter_map(|line| line.split_once(" = "));
    let names = names.map(|(name, _)| name).filter(|name| *name != "default");
    let features: BTreeSet<_> = names.map(str::to_owned).collect();
    assert!(features.len() >= 5, "the test sees the features: {features:?}");
    assert_eq!(listed(README, "\n## Features\n"), features, "README.md");
    assert_eq!(listed(include_str!("../src/lib.rs"), "\n//! # Features\n"), features, "lib.rs");
}

/// Each line of the README's list of commands: the command, and options of it.
#[cfg(feature = "cli")]
#[test]
fn the_commands_and_their_options_exist() {
    let list = README.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let commands = list.lines().filter(|line| !line.is_empty());
    let mut checked = 0;
    for line in commands {
        let words = line.split_whitespace().skip(1);
        let command: Vec<_> = words
            .take_while(|word| word.chars().all(|letter| letter.is_ascii_lowercase()))
            .collect();
        let mut tailcask = std::process::Command::new(env!("CARGO_BIN_EXE_tailcask"));
        let output = tailcask.args(&command).arg("--help").output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{line}");
        for option in line.split([' ', ',', ';']).filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{line}: no {option} in {help}");
        }
        checked += 1;
    }
    assert_eq!(checked, 21);
}
