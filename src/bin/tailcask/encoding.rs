//! Keys, values and records as hex or base64, where they are no text.

use crate::exit::usage;
use crate::text::{from_base64, shown, to_base64};
use anyhow::{Context, Result};
use clap::ValueEnum;
use std::borrow::Cow;

/// How bytes are given and printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    /// As they are
    #[default]
    Raw,
    /// Two hexadecimal digits for each byte
    Hex,
    /// Base64, with padding
    Base64,
}

impl Encoding {
    /// The bytes that a text stands for. Space around encoded ones does not count.
    pub(crate) fn decode(self, text: &[u8]) -> Result<Cow<'_, [u8]>> {
        let text = if self == Self::Raw { text } else { text.trim_ascii() };
        match self {
            Self::Raw => return Ok(text.into()),
            Self::Hex => from_hex(text).with_context(|| format!("{:?} is not hex", shown(text))),
            Self::Base64 => from_base64(text),
        }
        .map(Cow::Owned)
    }

    /// As [`decode`](Self::decode), for an argument: what cannot be decoded is wrong usage.
    pub(crate) fn decode_argument<'t>(self, text: &'t [u8], what: &str) -> Result<Cow<'t, [u8]>> {
        self.decode(text).map_err(|error| usage(format!("{what}: {error}")))
    }

    /// The bytes as they are printed.
    pub(crate) fn encode(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::Raw => bytes.into(),
            Self::Hex => to_hex(bytes).into_bytes().into(),
            Self::Base64 => to_base64(bytes).into_bytes().into(),
        }
    }

    /// What the name of a JSON field ends with.
    pub(crate) const fn suffix(self) -> &'static str {
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
            assert_eq!(encoding.decode(&text).unwrap(), bytes);
        }
        assert_eq!(&*Encoding::Hex.encode(b"\x00\xa5\xff"), b"00a5ff");
        assert_eq!(&*Encoding::Hex.decode(b"00A5fF\n").unwrap(), b"\x00\xa5\xff");
    }

    #[test]
    fn what_is_not_encoded_is_wrong_usage() {
        for text in ["0", "0x", "zz", "0 00"] {
            let error = Encoding::Hex.decode_argument(text.as_bytes(), "key").unwrap_err();
            assert_eq!(error.to_string(), format!("key: {text:?} is not hex"));
            assert_eq!(crate::exit::code(&error), 2);
            let error = Encoding::Hex.decode(text.as_bytes()).unwrap_err();
            assert_eq!(crate::exit::code(&error), 6, "in a file it is none");
        }
        let error = Encoding::Base64.decode_argument(b"?", "key").unwrap_err();
        assert_eq!(error.to_string(), "key: \"?\" is not base64");
    }
}
