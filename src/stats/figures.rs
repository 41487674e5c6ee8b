//! Figures as people read them: one way for the page, `proxy top`, and all else that commands print.
//!
//! `control/page/page.js` writes them the same way, and a test compares the two. So all of it is arithmetic of whole
//! numbers, rounded down: two languages round halves differently, and 99.96 % of all hits are not all.

/// What stands where nothing is known.
pub const UNKNOWN: &str = "-";

/// A number with its thousands apart.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A part of a whole in whole percent; of nothing, 0.
pub fn whole_percent(part: u64, whole: u64) -> u64 {
    thousandths(part, whole).unwrap_or(0) / 10
}

/// The same with a tenth of a percent; of nothing there is no part.
pub fn percent(part: u64, whole: u64) -> String {
    let text = |share: u64| format!("{}.{} %", share / 10, share % 10);
    thousandths(part, whole).map_or(UNKNOWN.to_string(), text)
}

fn thousandths(part: u64, whole: u64) -> Option<u64> {
    // The two are not read at one moment: a hit may be counted in between.
    let share = (u128::from(part.min(whole)) * 1000).checked_div(whole.into())?;
    Some(share as u64)
}

/// Bytes in the largest unit of which there is one at least; below 100 with a tenth.
pub fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((power, unit)) = units.iter().find(|(power, _)| bytes >> power > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> power;
    match tenths {
        0..1000 => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        _ => format!("{} {unit}", tenths / 10),
    }
}

/// Seconds in the largest unit of which there are two at least.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long something took, of which the microseconds are given, if they are known: three digits of it.
pub fn time(micros: Option<u64>) -> String {
    match micros {
        None => UNKNOWN.to_string(),
        Some(micros @ 0..1000) => format!("{micros} µs"),
        Some(micros @ 1000..1_000_000) => format!("{} ms", three_digits(micros)),
        Some(micros) => format!("{} s", three_digits(micros / 1000)),
    }
}

/// The hour, minute and second in UTC of a moment, in seconds since 1970.
pub fn time_of_day(seconds: u64) -> String {
    let day = seconds % 86_400;
    format!("{:02}:{:02}:{:02}", day / 3600, day / 60 % 60, day % 60)
}

/// Thousandths as a decimal number of three digits, or of more before the point.
fn three_digits(thousandths: u64) -> String {
    let step = match thousandths {
        0..10_000 => 10,
        10_000..100_000 => 100,
        _ => 1000,
    };
    let shown = thousandths / step * step;
    let text = format!("{}.{:03}", shown / 1000, shown % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_never_more_than_there_is() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(number(u64::MAX), "18,446,744,073,709,551,615");
        let sizes = [0, 1023, 1536, 102_399, 102_400, (1 << 20) - 1, 5 << 30].map(size);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.5 KiB", "99.9 KiB", "100 KiB", "1023 KiB", "5.0 GiB"]
        );
        assert_eq!(size(u64::MAX), "16777215 TiB");
        let shares = [(0, 0), (0, 5), (1, 3), (9996, 10_000), (3, 3), (u64::MAX, u64::MAX)];
        let shown = shares.map(|(part, whole)| percent(part, whole));
        assert_eq!(shown, ["-", "0.0 %", "33.3 %", "99.9 %", "100.0 %", "100.0 %"]);
        assert_eq!(
            shares.map(|(part, whole)| whole_percent(part, whole)),
            [0, 0, 33, 99, 100, 100]
        );
        let spans = [1, 60, 119, 120, 7199, 7384, 200_000].map(span);
        assert_eq!(spans, ["1 s", "60 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
        #[rustfmt::skip]
        let times = [
            (50, "50 µs"), (999, "999 µs"), (1000, "1 ms"), (2500, "2.5 ms"), (9999, "9.99 ms"), (12_345, "12.3 ms"),
            (999_999, "999 ms"), (1_000_000, "1 s"), (30_000_000, "30 s"), (1_234_567_890, "1234 s"),
        ];
        for (micros, expected) in times {
            assert_eq!(time(Some(micros)), expected, "{micros}");
        }
        assert_eq!(time(None), "-");
        assert_eq!([0, 784_111_777].map(time_of_day), ["00:00:00", "08:49:37"]);
    }
}
