//! One value at a time: as it was given, or else the default of the table, read within the bounds of the table.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::arguments::Args;
use crate::cli::error::UsageError;
use crate::cli::flags::{self, DefaultValue, Shape};
use crate::cli::units::whole_seconds;
use crate::clock::DeltaSeconds;

/// Why a value without which there is no configuration is there.
const HAS_DEFAULT: &str = "the table has a default for it";

/// Reads values by the name of their flag.
pub(super) struct Values<'a>(pub &'a Args);

impl Values<'_> {
    /// What was given, and under which name; `None` if nothing was.
    pub fn given(&self, name: &'static str) -> Option<(String, String)> {
        let (value, called) = self.0.value(name)?;
        Some((value.to_string_lossy().into_owned(), called))
    }

    /// What was given, or else the default; empty where there is neither.
    pub fn shown(&self, name: &'static str) -> String {
        let given = self.given(name).map(|(value, _)| value);
        given.or_else(|| default(name).map(String::from)).unwrap_or_default()
    }

    /// The path of a file. Not text: a path need not be UTF-8.
    pub fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.0.value(name).map(|(value, _): (&OsStr, _)| PathBuf::from(value))
    }

    /// Reads what was given, or else the default, if there is one.
    pub fn read<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, UsageError> {
        let Some((seen, flag)) = self.given(name) else {
            // The same reader for both: a default that it does not accept is a bug of the table, which
            // reading no flags at all finds.
            let read = |word| read(word).expect("the table's default is one that is accepted");
            return Ok(default(name).map(read));
        };
        let accepted = || flags::find(name).shape.accepted();
        let value = read(seen.trim());
        let value = value.ok_or_else(|| UsageError::Value { flag, seen, accepted: accepted() })?;
        Ok(Some(value))
    }

    /// The same for a flag that has a default.
    pub fn required<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, UsageError> {
        Ok(self.read(name, read)?.expect(HAS_DEFAULT))
    }

    /// One of the words that `meanings` has, which are those of the table.
    pub fn one_of<T: Copy>(
        &self,
        name: &'static str,
        meanings: &[(&str, T)],
    ) -> Result<T, UsageError> {
        // A word that only one of the two lists has would be accepted and not shown, or shown and not accepted.
        let words = meanings.iter().map(|(word, _)| *word);
        assert!(
            matches!(flags::find(name).shape, Shape::Choice(known) if words.eq(known.iter().copied())),
            "{name}: the words are those of the table"
        );
        self.required(name, |word| {
            meanings.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning)
        })
    }

    pub fn number_if_any(&self, name: &'static str) -> Result<Option<u64>, UsageError> {
        let shape = flags::find(name).shape;
        self.read(name, |word| shape.number(word))
    }

    pub fn number(&self, name: &'static str) -> Result<u64, UsageError> {
        Ok(self.number_if_any(name)?.expect(HAS_DEFAULT))
    }

    pub fn bytes_if_any(&self, name: &'static str) -> Result<Option<u64>, UsageError> {
        let shape = flags::find(name).shape;
        self.read(name, |word| shape.bytes(word))
    }

    pub fn bytes(&self, name: &'static str) -> Result<u64, UsageError> {
        Ok(self.bytes_if_any(name)?.expect(HAS_DEFAULT))
    }

    /// The same where the default depends on other flags.
    pub fn bytes_or(&self, name: &'static str, default: &str) -> Result<u64, UsageError> {
        let given = self.bytes_if_any(name)?;
        let default = || flags::find(name).shape.bytes(default);
        Ok(given.or_else(default).expect(HAS_DEFAULT))
    }

    pub fn duration_if_any(&self, name: &'static str) -> Result<Option<Duration>, UsageError> {
        let shape = flags::find(name).shape;
        self.read(name, |word| shape.duration(word))
    }

    pub fn duration(&self, name: &'static str) -> Result<Duration, UsageError> {
        let shape = flags::find(name).shape;
        self.required(name, |word| shape.duration(word))
    }

    pub fn seconds_if_any(&self, name: &'static str) -> Result<Option<DeltaSeconds>, UsageError> {
        let shape = flags::find(name).shape;
        self.read(name, |word| shape.duration(word).and_then(whole_seconds))
    }

    pub fn seconds(&self, name: &'static str) -> Result<DeltaSeconds, UsageError> {
        Ok(self.seconds_if_any(name)?.expect(HAS_DEFAULT))
    }
}

/// The default as it would be typed, where there is one.
fn default(name: &str) -> Option<&'static str> {
    match flags::find(name).default {
        DefaultValue::Value(text) => Some(text),
        DefaultValue::Absent(_) | DefaultValue::ByStore(_) => None,
    }
}
