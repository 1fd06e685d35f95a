//! What was done, as a table.

use std::fmt;
use std::fs;
use std::path::Path;

#[derive(Clone, Debug, Default)]
pub(crate) struct Table(Vec<(String, bool, u64)>);

impl Table {
    fn row(&mut self, name: &str, is_most: bool) -> &mut u64 {
        let at = self.0.iter().position(|row| row.0 == name).unwrap_or_else(|| {
            self.0.push((name.to_owned(), is_most, 0));
            self.0.len() - 1
        });
        &mut self.0[at].2
    }

    pub(crate) fn add(&mut self, name: &str, n: u64) {
        *self.row(name, false) += n;
    }

    /// The largest of some numbers.
    pub(crate) fn most(&mut self, name: &str, n: u64) {
        let row = self.row(name, true);
        *row = n.max(*row);
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|row| row.0 == name).map_or(0, |row| row.2)
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, is_most, n) in &other.0 {
            if *is_most { self.most(name, *n) } else { self.add(name, *n) }
        }
    }

    pub(crate) fn save(&self, path: &Path) {
        let lines = self.0.iter().map(|(name, is_most, n)| format!("{is_most}\t{n}\t{name}\n"));
        fs::write(path, lines.collect::<String>()).unwrap();
    }

    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let rows = text.lines().map(|line| {
            let mut parts = line.splitn(3, '\t');
            let (is_most, n) = (parts.next().unwrap(), parts.next().unwrap());
            let name = parts.next().unwrap().to_owned();
            (name, is_most.parse().unwrap(), n.parse().unwrap())
        });
        Self(rows.collect())
    }
}

fn in_thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | |\n|---|---:|")?;
        self.0.iter().try_for_each(|(name, _, n)| writeln!(f, "| {name} | {} |", in_thousands(*n)))
    }
}

#[test]
fn tables_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let mut table = Table::default();
    table.add("rounds", 3);
    table.most("most maps", 7);
    table.save(&path);
    let mut sum = Table::read(&path);
    table.add("rounds", 1000);
    sum.merge(&table);
    assert_eq!((sum.get("rounds"), sum.get("most maps"), sum.get("kills")), (1006, 7, 0));
    assert_eq!(sum.to_string(), "| | |\n|---|---:|\n| rounds | 1,006 |\n| most maps | 7 |\n");
}
