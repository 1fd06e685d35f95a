//! Bytes as columns of text: `\t`, `\n` and `\r` stand for the bytes that would end a column or a line, `\\`
//! for a backslash. And base64.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::io::{self, Write};

fn escape_of(byte: u8) -> Option<u8> {
    match byte {
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\\' => Some(b'\\'),
        _ => None,
    }
}

/// Writes bytes with every tab, newline, carriage return and backslash escaped.
pub(crate) fn write_escaped(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| escape_of(byte).is_some()) {
        out.write_all(&rest[..at])?;
        out.write_all(&[b'\\', escape_of(rest[at]).unwrap_or(rest[at])])?;
        rest = &rest[at + 1..];
    }
    out.write_all(rest)
}

/// The inverse of [`write_escaped`].
pub(crate) fn unescape(column: &[u8]) -> Result<Cow<'_, [u8]>> {
    if !column.contains(&b'\\') {
        return Ok(column.into());
    }
    let mut bytes = Vec::with_capacity(column.len());
    let mut column = column.iter();
    while let Some(&byte) = column.next() {
        bytes.push(match (byte, column.as_slice().first()) {
            (b'\\', Some(b't')) => b'\t',
            (b'\\', Some(b'n')) => b'\n',
            (b'\\', Some(b'r')) => b'\r',
            (b'\\', Some(b'\\')) => b'\\',
            (b'\\', _) => {
                bail!("a backslash not followed by t, n, r or \\; see --no-escapes")
            }
            _ => byte,
        });
        if byte == b'\\' {
            column.next();
        }
    }
    Ok(bytes.into())
}

pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn from_base64(text: &[u8]) -> Result<Vec<u8>> {
    STANDARD.decode(text).with_context(|| format!("{:?} is not base64", shown(text)))
}

/// The first 60 bytes of a text, for messages.
pub(crate) fn shown(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&text[..text.len().min(60)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_a_column() {
        let bytes: Vec<u8> = (0..=255).chain(*b"\\n\\\\t\t\\").collect();
        let mut column = Vec::new();
        write_escaped(&mut column, &bytes).unwrap();
        assert!(!column.iter().any(|byte| b"\t\n\r".contains(byte)));
        assert_eq!(unescape(&column).unwrap(), bytes);
        assert!(unescape(b"C:\\users").is_err());
        assert!(unescape(b"at the end\\").is_err());
    }
}
