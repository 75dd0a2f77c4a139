//! The place of a field in a text.
//!
//! The YAML library knows the position of an error but gives none for values. [`locate`] uses that: it walks the
//! text again along a field path and fails on purpose when it arrives.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One step of a field path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Field of a mapping.
    Field(String),
    /// Item of a list.
    Item(usize),
}

/// Which part of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Its key.
    Key,
    /// Its value.
    Value,
}

/// Line and column, counted from 1, of a field in a text that was read before.
pub(super) fn locate(text: &str, path: &[Segment], part: Part) -> Option<(u32, u32)> {
    let document = serde_yaml::Deserializer::from_str(text).next()?;
    let error = Walk { path, part }.deserialize(document).err()?;
    place(&error)
}

/// Where the YAML library says that an error is. A text has fewer lines than fit into the numbers.
pub(super) fn place(error: &serde_yaml::Error) -> Option<(u32, u32)> {
    let at = error.location()?;
    Some((u32::try_from(at.line()).ok()?, u32::try_from(at.column()).ok()?))
}

/// Follows a path and fails where it ends.
#[derive(Clone, Copy)]
struct Walk<'a> {
    path: &'a [Segment],
    part: Part,
}

impl Walk<'_> {
    fn arrived<E: Error>(self) -> Result<(), E> {
        if self.path.is_empty() { Err(E::custom("here")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.arrived()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.arrived()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.arrived()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.arrived()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.arrived()?;
        let Some((Segment::Item(wanted), rest)) = self.path.split_first() else {
            return Ok(());
        };
        for _ in 0..*wanted {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        items.next_element_seed(Walk { path: rest, part: self.part })?;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.arrived()?;
        let Some((Segment::Field(wanted), rest)) = self.path.split_first() else {
            return Ok(());
        };
        let stop = rest.is_empty() && self.part == Part::Key;
        while let Some(matches) = entries.next_key_seed(WantedKey { wanted, stop })? {
            if matches {
                return entries.next_value_seed(Walk { path: rest, part: self.part });
            }
            entries.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Whether a key is the wanted one; fails at it when the walk ends there.
struct WantedKey<'a> {
    wanted: &'a str,
    stop: bool,
}

impl<'de> DeserializeSeed<'de> for WantedKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for WantedKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        match key == self.wanted {
            true if self.stop => Err(E::custom("here")),
            matches => Ok(matches),
        }
    }
}
