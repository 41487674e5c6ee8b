//! Values with units: durations and sizes.

use std::time::Duration;

use crate::clock::DeltaSeconds;

/// A duration that HTTP can count, in whole seconds.
pub(super) fn whole_seconds(duration: Duration) -> Option<DeltaSeconds> {
    (duration.subsec_nanos() == 0).then(|| DeltaSeconds::saturating_from(duration.as_secs()))
}

/// A duration: seconds, or a number with a unit.
pub(super) fn read_duration(word: &str) -> Option<Duration> {
    let (digits, unit) =
        word.split_at(word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len()));
    let number: u64 = digits.parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    let duration = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        _ => None,
    }?;
    // Beyond a century the clock's arithmetic has no use for it.
    (duration <= Duration::from_secs(100 * 366 * 86_400)).then_some(duration)
}

/// A size: bytes, or a number with a binary unit.
pub(super) fn read_bytes(word: &str) -> Option<u64> {
    let (digits, unit) =
        word.split_at(word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len()));
    let number: u64 = digits.parse().ok()?;
    let factor: u64 = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        _ => return None,
    };
    // Sums of sizes must not overflow.
    number.checked_mul(factor).filter(|bytes| *bytes <= 1 << 50)
}

/// A bound on a size as it would be typed.
pub fn show_bytes(bytes: u64) -> String {
    let units = [(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    let whole = units.into_iter().find(|(size, _)| bytes >= *size && bytes.is_multiple_of(*size));
    whole.map_or_else(|| bytes.to_string(), |(size, unit)| format!("{}{unit}", bytes / size))
}

/// A bound on a duration as it would be typed.
pub(super) fn show_milliseconds(milliseconds: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let whole = units
        .into_iter()
        .find(|(span, _)| milliseconds >= *span && milliseconds.is_multiple_of(*span));
    whole.map_or_else(|| "0".to_string(), |(span, unit)| format!("{}{unit}", milliseconds / span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_take_units() {
        let seconds = |word| read_duration(word).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("500ms"), Some(0.5));
        assert_eq!(
            (seconds("30"), seconds("10m"), seconds("2h")),
            (Some(30.0), Some(600.0), Some(7200.0))
        );
        assert_eq!(seconds("7d"), Some(604_800.0));
        for word in ["", "m", "1.5s", "-1", "10 m", "1w", "99999999999999999999", "9999999999d"] {
            assert_eq!(seconds(word), None, "{word}");
        }
        assert_eq!(
            (read_bytes("1K"), read_bytes("64M"), read_bytes("2g")),
            (Some(1024), Some(64 << 20), Some(2 << 30))
        );
        for word in ["", "K", "1T", "-1", "99999999999G"] {
            assert_eq!(read_bytes(word), None, "{word}");
        }
    }

    #[test]
    fn bounds_are_shown_as_they_would_be_typed() {
        for word in ["1K", "64K", "1M", "1G", "1500"] {
            assert_eq!(read_bytes(word).map(show_bytes).as_deref(), Some(word));
        }
        for word in ["1ms", "500ms", "5s", "90s", "10m", "2h", "1d"] {
            let milliseconds = read_duration(word).map(|duration| duration.as_millis() as u64);
            assert_eq!(milliseconds.map(show_milliseconds).as_deref(), Some(word));
        }
    }
}
