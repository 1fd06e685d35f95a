//! Sizes and times as they are typed, and counts as they are printed.

use indicatif::HumanCount;
use std::time::Duration;
use tailcask::Durability;

/// A number and its unit, in lower case.
fn split(text: &str) -> Result<(u64, String), String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number = digits.parse().map_err(|_| "not a number".to_owned())?;
    Ok((number, text[digits.len()..].to_ascii_lowercase()))
}

pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        other => return Err(format!("unknown unit {other:?}; use KiB, MiB or GiB")),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let factor = match unit.as_str() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        other => return Err(format!("unknown unit {other:?}; use ms, s, m, h or d")),
    };
    number.checked_mul(factor).map(Duration::from_millis).ok_or_else(|| "too large".to_owned())
}

/// A time to live.
pub(crate) fn ttl(text: &str) -> Result<Duration, String> {
    match time(text)? {
        Duration::ZERO => Err("a value cannot expire before it is written".to_owned()),
        ttl => Ok(ttl),
    }
}

pub(crate) fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "buffered" => Ok(Durability::Buffered),
        "synced" => Ok(Durability::Synced),
        other => match time(other) {
            Ok(every) if !every.is_zero() => Ok(Durability::Periodic(every)),
            _ => Err("use buffered, synced, or a time such as 500ms".to_owned()),
        },
    }
}

/// A count with its unit: "1 segment", "2 segments", "1 entry", "2 entries".
pub(crate) fn counted(count: u64, unit: &str) -> String {
    let number = HumanCount(count);
    match (count, unit.strip_suffix('y')) {
        (1, _) => format!("{number} {unit}"),
        (_, Some(stem)) if unit != "key" => format!("{number} {stem}ies"),
        _ => format!("{number} {unit}s"),
    }
}

/// An age, in its largest two units: "3d 4h", "5m 7s", "0s". The parts are as [`time`] reads them.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m")];
    let units = units.into_iter().chain([(seconds % 60, "s")]);
    let two: Vec<_> = units.skip_while(|&(n, unit)| n == 0 && unit != "s").take(2).collect();
    let said = two.iter().enumerate().filter(|&(nth, &(n, _))| nth == 0 || n > 0);
    said.map(|(_, (n, unit))| format!("{n}{unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(1, "segment"), "1 segment");
        assert_eq!(counted(0, "entry"), "0 entries");
        assert_eq!(counted(1000, "key"), "1,000 keys");
    }

    #[test]
    fn an_age_has_its_largest_two_units() {
        let said = |seconds| age(Duration::from_secs(seconds));
        assert_eq!(said(0), "0s");
        assert_eq!(said(59), "59s");
        assert_eq!(said(60), "1m");
        assert_eq!(said(307), "5m 7s");
        assert_eq!(said(3600), "1h");
        assert_eq!(said(86_399), "23h 59m");
        assert_eq!(said(86_400 + 59), "1d");
        assert_eq!(said(400 * 86_400 + 2 * 3600), "400d 2h");
        assert_eq!(age(Duration::from_millis(999)), "0s");
    }

    #[test]
    fn units_are_read() {
        assert_eq!(size("3k"), Ok(3072));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert!(size("1T").is_err() && size("").is_err() && size("99999999999G").is_err());
        assert_eq!(time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("2d"), Ok(Duration::from_secs(172_800)));
        assert!(time("1y").is_err() && time("-1s").is_err());
        assert_eq!(durability("synced"), Ok(Durability::Synced));
        assert_eq!(durability("1s"), Ok(Durability::Periodic(Duration::from_secs(1))));
        assert!(durability("0s").is_err() && durability("often").is_err());
    }
}
