//! Keys and values as hex or base64, where they are no text.

use super::text::{from_base64, to_base64};
use crate::exit::usage;
use anyhow::Result;
use clap::ValueEnum;
use std::borrow::Cow;

/// How bytes are given and printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Encoding {
    /// As they are
    #[default]
    Raw,
    /// Two hexadecimal digits for each byte
    Hex,
    /// Base64, with padding
    Base64,
}

impl Encoding {
    /// The bytes that an argument or a file stands for. Space around encoded ones does not count.
    pub(super) fn decode<'t>(self, text: &'t [u8], what: &str) -> Result<Cow<'t, [u8]>> {
        let bytes = match self {
            Self::Raw => return Ok(text.into()),
            Self::Hex => from_hex(text.trim_ascii()),
            Self::Base64 => from_base64(text.trim_ascii()).ok(),
        };
        let name = if self == Self::Hex { "hex" } else { "base64" };
        let shown = || super::text::shown(text.trim_ascii()).into_owned();
        bytes.map(Cow::Owned).ok_or_else(|| usage(format!("{what}: {:?} is not {name}", shown())))
    }

    /// The bytes as they are printed.
    pub(super) fn encode(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Raw => bytes.into(),
            Self::Hex => to_hex(bytes).into_bytes().into(),
            Self::Base64 => to_base64(bytes).into_bytes().into(),
        }
    }

    /// What the name of a JSON field ends with.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Raw => "",
            Self::Hex => "_hex",
            Self::Base64 => "_base64",
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8]| match *pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    };
    text.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        for encoding in [Encoding::Raw, Encoding::Hex, Encoding::Base64] {
            let text = encoding.encode(&bytes);
            assert_eq!(encoding.decode(&text, "key").unwrap(), bytes);
        }
        assert_eq!(&*Encoding::Hex.encode(b"\x00\xa5\xff"), b"00a5ff");
        assert_eq!(&*Encoding::Hex.decode(b"00A5fF\n", "key").unwrap(), b"\x00\xa5\xff");
    }

    #[test]
    fn what_is_not_encoded_is_wrong_usage() {
        for text in ["0", "0x", "zz", "0 00"] {
            let error = Encoding::Hex.decode(text.as_bytes(), "key").unwrap_err();
            assert_eq!(error.to_string(), format!("key: {text:?} is not hex"));
            assert_eq!(crate::exit::code(&error), 2);
        }
        assert!(Encoding::Base64.decode(b"?", "key").is_err());
    }
}
