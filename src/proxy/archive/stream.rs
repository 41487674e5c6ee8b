//! A recording as a stream of entries: between its beginning and its end, one is in memory at a time.
//!
//! A recording may be as large as the store, and browsers write such of a gigabyte, so neither side has all of
//! it at once. What an entry is, `har.rs` says.

use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::proxy::archive::har::{HarEntry, Lenient};

/// What begins a recording; entries follow, with commas between them, and then [`END`].
// By hand, unlike other JSON here: no struct holds a recording.
pub const BEGINNING: &str = concat!(
    "{\"log\":{\"version\":\"1.2\",\"creator\":{\"name\":\"proxy\",\"version\":\"",
    env!("CARGO_PKG_VERSION"),
    "\"},\"entries\":["
);
/// What ends it.
pub const END: &str = "]}}\n";

/// Reads the entries of a recording one by one, however long it is; gives how many there were. What `each`
/// says is the end of it.
pub fn entries(
    reader: impl Read,
    mut each: impl FnMut(HarEntry) -> Result<(), String>,
) -> Result<u64, String> {
    let mut count = 0;
    // Kept beside serde's error, which would say where in the text reading stopped, and not why.
    let mut stopped = None;
    let mut counting = |entry| {
        count += 1;
        each(entry).map_err(|error| stopped = Some(error))
    };
    let mut reading = serde_json::Deserializer::from_reader(reader);
    let read =
        Object { name: "log", inner: Object { name: "entries", inner: Entries(&mut counting) } }
            .deserialize(&mut reading)
            .and_then(|()| reading.end());
    match (stopped, read) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(format!("no HTTP Archive: {error}")),
        (None, Ok(())) => Ok(count),
    }
}

/// Reads a list of entries, as the control interface takes them: a part of a recording.
pub fn list(content: &[u8]) -> Result<Vec<HarEntry>, serde_json::Error> {
    let list: Vec<Lenient<HarEntry>> = serde_json::from_slice(content)?;
    Ok(list.into_iter().map(|Lenient(entry)| entry).collect())
}

/// An object, one member of which matters.
struct Object<T> {
    name: &'static str,
    inner: T,
}

impl<'de, T: DeserializeSeed<'de, Value = ()>> DeserializeSeed<'de> for Object<T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, T: DeserializeSeed<'de, Value = ()>> Visitor<'de> for Object<T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {:?}", self.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut inner = Some(self.inner);
        while let Some(name) = members.next_key::<String>()? {
            // Other members are skipped without being kept, however large (`pages` of browsers), as is
            // a second one of the name.
            match inner.take_if(|_| name == self.name) {
                Some(seed) => members.next_value_seed(seed)?,
                None => _ = members.next_value::<IgnoredAny>()?,
            }
        }
        match inner {
            None => Ok(()),
            Some(_) => Err(Error::missing_field(self.name)),
        }
    }
}

/// A list, whose members are given away one by one.
struct Entries<'a, F>(&'a mut F);

impl<'de, F: FnMut(HarEntry) -> Result<(), ()>> DeserializeSeed<'de> for Entries<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(HarEntry) -> Result<(), ()>> Visitor<'de> for Entries<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(Lenient(entry)) = members.next_element()? {
            (self.0)(entry).map_err(|()| Error::custom("stopped"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_one_by_one_from_whatever_is_an_archive() {
        let count = |text: &str| {
            let mut seen = Vec::new();
            let read = entries(text.as_bytes(), |entry| {
                seen.push(entry);
                Ok(())
            });
            read.map(|count| (count, seen.len()))
        };
        let text = format!("{BEGINNING}{{\"a\":1}},{{\"b\":2}}{END}");
        assert_eq!(count(&text), Ok((2, 2)));
        assert_eq!(
            count("{\"x\":[1],\"log\":{\"pages\":[],\"entries\":[]},\"y\":null}"),
            Ok((0, 0))
        );
        for wrong in [
            "",
            "[]",
            "{}",
            "{\"log\":{}}",
            "{\"log\":{\"entries\":{}}}",
            "{\"log\":{\"entries\":[]}} x",
        ] {
            let error = count(wrong).expect_err(wrong);
            assert!(error.starts_with("no HTTP Archive: "), "{error}");
        }
        for end in 0..text.len() - 1 {
            assert!(count(&text[..end]).is_err(), "{end}");
        }
        let stopped = entries(text.as_bytes(), |_| Err("enough".to_string()));
        assert_eq!(stopped, Err("enough".to_string()));
    }
}
