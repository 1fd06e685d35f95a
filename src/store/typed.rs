//! Values and entries as types, in place: a check of the bytes, and no copy (feature "zerocopy").
//!
//! A value and an entry begin at a multiple of 8 bytes (docs/format.md), in a mapping that begins with a
//! page. So any type whose alignment is at most 8 can be read where it lies.

use super::iter::Pair;
use super::value::Value;
use crate::error::LayoutError;
use crate::log::Entry;
use zerocopy::error::ConvertError;
use zerocopy::{Immutable, KnownLayout, TryFromBytes};

fn view<T>(bytes: &[u8]) -> Result<&T, LayoutError>
where
    T: TryFromBytes + KnownLayout + Immutable + ?Sized,
{
    let name = std::any::type_name::<T>();
    T::try_ref_from_bytes(bytes).map_err(|error| match error {
        ConvertError::Alignment(_) => LayoutError::Alignment { name },
        ConvertError::Size(_) => LayoutError::Size { name, len: bytes.len() },
        ConvertError::Validity(_) => LayoutError::Value { name },
    })
}

impl Value<'_> {
    /// The value as a type, in place: nothing is copied or parsed. Needs the feature `zerocopy`.
    ///
    /// `T` is any type that derives zerocopy's `TryFromBytes` (or `FromBytes`), `KnownLayout` and
    /// `Immutable`; its size must be that of the value. Values are aligned to 8 bytes, so every type
    /// with an alignment of up to 8 can be read, and slices of such. What is written with
    /// `IntoBytes::as_bytes` can be read back so. The bytes are what the writing machine stored: use the
    /// integers of `zerocopy::byteorder` for data that moves between machines of different byte order.
    ///
    /// ```
    /// use zerocopy::little_endian::{U32, U64};
    /// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
    ///
    /// #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
    /// #[repr(C)]
    /// struct Account {
    ///     cents: U64,
    ///     transfers: U32,
    /// }
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tailcask::Store::open(dir.path().join("store"))?;
    /// store.put("ada", Account { cents: 1250.into(), transfers: 3.into() }.as_bytes())?;
    ///
    /// let value = store.get("ada")?.expect("just put");
    /// let account: &Account = value.get_as()?;
    /// assert_eq!(account.cents.get(), 1250);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`LayoutError`]: the value is too short or too long, `T` needs an alignment above 8, or the bytes
    /// are no valid `T` (a `bool` of 2).
    pub fn get_as<T>(&self) -> Result<&T, LayoutError>
    where
        T: TryFromBytes + KnownLayout + Immutable + ?Sized,
    {
        view(self)
    }
}

impl Entry<'_> {
    /// The entry as a type, in place; as [`Value::get_as`]. Needs the feature `zerocopy`.
    ///
    /// # Errors
    /// As there.
    pub fn get_as<T>(&self) -> Result<&T, LayoutError>
    where
        T: TryFromBytes + KnownLayout + Immutable + ?Sized,
    {
        view(self)
    }
}

impl Pair<'_> {
    /// The value as a type, in place; as [`Value::get_as`]. Needs the feature `zerocopy`.
    ///
    /// # Errors
    /// As there.
    pub fn value_as<T>(&self) -> Result<&T, LayoutError>
    where
        T: TryFromBytes + KnownLayout + Immutable + ?Sized,
    {
        view(self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::CommitLog;
    use crate::store::Store;
    use zerocopy::{FromBytes, IntoBytes};

    #[derive(Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
    #[repr(C)]
    struct Point {
        x: u64,
        y: u64,
    }

    #[derive(Debug, FromBytes, KnownLayout, Immutable)]
    #[repr(C, align(4096))]
    struct Page([u8; 4096]);

    fn size(len: usize) -> impl Fn(&LayoutError) -> bool {
        move |error| matches!(error, LayoutError::Size { len: found, .. } if *found == len)
    }

    #[test]
    fn values_are_read_in_place_whatever_the_length_of_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        for len in 1..=17 {
            let key = vec![b'k'; len];
            let point = Point { x: len as u64, y: u64::MAX };
            store.put(&key, point.as_bytes()).unwrap();
            let value = store.get(&key).unwrap().unwrap();
            let found: &Point = value.get_as().unwrap();
            assert_eq!(found, &point);
            assert_eq!(std::ptr::from_ref(found).cast::<u8>(), value.as_ptr(), "not a copy");
            assert_eq!(value.get_as::<[u64]>().unwrap(), [len as u64, u64::MAX]);
        }
        for pair in &store {
            let pair = pair.unwrap();
            assert_eq!(pair.value_as::<Point>().unwrap().x, pair.key().len() as u64);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        for len in [0, 8, 15, 17, 24] {
            store.put("key", vec![0; len]).unwrap();
            let value = store.get("key").unwrap().unwrap();
            assert!(size(len)(&value.get_as::<Point>().unwrap_err()), "{len}");
        }
        store.put("key", [2]).unwrap();
        let value = store.get("key").unwrap().unwrap();
        let error = value.get_as::<bool>().unwrap_err();
        assert!(matches!(error, LayoutError::Value { .. }));
        assert_eq!(error.to_string(), "the bytes are no valid bool");
        store.put("page", [0; 4096]).unwrap();
        let value = store.get("page").unwrap().unwrap();
        let error = value.get_as::<Page>().unwrap_err();
        assert!(matches!(error, LayoutError::Alignment { .. }), "{error}");
    }

    #[test]
    fn entries_are_read_in_place() {
        let log = CommitLog::in_memory();
        log.append(b"odd").unwrap();
        let position = log.append([1u64, 2, 3].as_bytes()).unwrap();
        let entry = log.read(position).unwrap();
        assert_eq!(entry.get_as::<[u64]>().unwrap(), [1, 2, 3]);
        assert!(size(24)(&entry.get_as::<Point>().unwrap_err()));
    }
}
