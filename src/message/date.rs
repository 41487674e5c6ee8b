//! HTTP dates: three shapes, and nothing else. RFC 9110 §5.6.7.
//!
//! A lenient parser would make a fresh response out of one whose `Expires` is unreadable, and an
//! unreadable `Expires` means "in the past" (RFC 9111 §5.3). So a value is taken whole or not at
//! all. The weekday is read but not compared with the date: senders get it wrong.
//!
//! Not the crate `httpdate`: it trims, takes `+6` for a number and 31 February for a day, puts the century of
//! two digits at 1970 whatever the present is (§5.6.7: at 50 years ahead), and panics beyond the year 9999.

use crate::clock::Timestamp;

const MONTHS: [&[u8; 3]; 12] = [
    b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec",
];
const MONTH_NAMES: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const SECONDS_PER_DAY: u64 = 86_400;

/// Reads a date; `None` if `value` has none of the three shapes, or lies before 1970.
///
/// `now` settles the century of a two-digit year: one that would lie more than 50 years ahead is in
/// the past (RFC 9110 §5.6.7).
pub fn parse(value: &[u8], now: Timestamp) -> Option<Timestamp> {
    let mut reader = DateReader { rest: value };
    // The weekday's length and what follows it tell the three shapes apart.
    let word = reader.letters();
    let seconds = if word.len() == 3 && reader.literal(b", ") {
        imf_fixdate(&mut reader)
    } else if word.len() == 3 && reader.literal(b" ") {
        asctime(&mut reader)
    } else if reader.literal(b", ") {
        rfc850(&mut reader, now)
    } else {
        None
    }?;
    // Long names belong to the RFC 850 shape and short ones to the others; nothing may follow (RFC 9111
    // §4.2: what cannot be read is stale, and trying harder would make it fresh).
    let known = WEEKDAYS.iter().any(|name| {
        let name = if word.len() == 3 { &name[..3] } else { name };
        name.as_bytes().eq_ignore_ascii_case(word)
    });
    (known && reader.rest.is_empty()).then(|| Timestamp::from_seconds(seconds))
}

/// `06 Nov 1994 08:49:37 GMT`, after the weekday.
fn imf_fixdate(reader: &mut DateReader<'_>) -> Option<u64> {
    let day = reader.digits(2)?;
    reader.expect(b" ")?;
    let month = reader.month()?;
    reader.expect(b" ")?;
    let year = reader.digits(4)?;
    reader.expect(b" ")?;
    let time = reader.time()?;
    reader.expect(b" ")?;
    reader.zone()?;
    from_civil(year, month, day, time)
}

/// `06-Nov-94 08:49:37 GMT`, after the weekday in full.
fn rfc850(reader: &mut DateReader<'_>, now: Timestamp) -> Option<u64> {
    let day = reader.digits(2)?;
    reader.expect(b"-")?;
    let month = reader.month()?;
    reader.expect(b"-")?;
    let short = reader.digits(2)?;
    reader.expect(b" ")?;
    let time = reader.time()?;
    reader.expect(b" ")?;
    reader.zone()?;
    // RFC 9110 §5.6.7: the century is this one, unless that lies more than 50 years ahead.
    let (this_year, ..) = to_civil(now.seconds() / SECONDS_PER_DAY);
    let year = this_year - this_year % 100 + short;
    let year = if year > this_year + 50 { year - 100 } else { year };
    from_civil(year, month, day, time)
}

/// `Nov  6 08:49:37 1994`, after the weekday.
fn asctime(reader: &mut DateReader<'_>) -> Option<u64> {
    let month = reader.month()?;
    reader.expect(b" ")?;
    // asctime pads the day with a space, and only to two columns.
    let day = if reader.literal(b" ") { reader.digits(1)? } else { reader.digits(2)? };
    reader.expect(b" ")?;
    let time = reader.time()?;
    reader.expect(b" ")?;
    let year = reader.digits(4)?;
    from_civil(year, month, day, time)
}

/// What is left of a date while it is read from the front.
struct DateReader<'a> {
    rest: &'a [u8],
}

impl<'a> DateReader<'a> {
    /// Takes the letters that come next, possibly none.
    fn letters(&mut self) -> &'a [u8] {
        let length = self.rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        word
    }

    /// Takes `expected` if that comes next.
    fn literal(&mut self, expected: &[u8]) -> bool {
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// The same, for use with `?`.
    fn expect(&mut self, expected: &[u8]) -> Option<()> {
        self.literal(expected).then_some(())
    }

    /// Takes exactly `count` digits.
    fn digits(&mut self, count: usize) -> Option<u64> {
        let (digits, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        digits.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
        })
    }

    /// The month, counted from 1.
    fn month(&mut self) -> Option<u64> {
        let name = self.letters();
        let index = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(name))?;
        Some(index as u64 + 1)
    }

    /// `08:49:37`, in seconds; a leap second is taken as written.
    fn time(&mut self) -> Option<u64> {
        let hour = self.digits(2)?;
        self.expect(b":")?;
        let minute = self.digits(2)?;
        self.expect(b":")?;
        let second = self.digits(2)?;
        (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
    }

    /// Takes `GMT`, in any case (RFC 9111 §4.2). Other zones are not converted: they are no HTTP dates.
    fn zone(&mut self) -> Option<()> {
        self.letters().eq_ignore_ascii_case(b"gmt").then_some(())
    }
}

/// Seconds since 1970 of a day of the Gregorian calendar and a time of day.
///
/// Years begin in March here, so that the leap day is the last one of its year.
fn from_civil(year: u64, month: u64, day: u64, time: u64) -> Option<u64> {
    // The 30th of February is no date, so it cannot be read: an Expires that says so is in the past.
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let month_length = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    };
    if day == 0 || day > month_length || year < 1970 {
        return None;
    }
    // With the leap day at the end of the year, the days before each month are a straight line: 153
    // days for five months.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = shifted_year * 365 + shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    Some((days + day_of_year - 719_468) * SECONDS_PER_DAY + time)
}

/// Year, month (from 1) and day (from 1) of a day counted from 1970-01-01.
fn to_civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    // The same way back, in eras of 400 years, after which the calendar repeats.
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Year, month, day, hour, minute and second of `timestamp`, in UTC.
fn parts(timestamp: Timestamp) -> (u64, u64, u64, u64, u64, u64) {
    let seconds = timestamp.seconds();
    let (year, month, day) = to_civil(seconds / SECONDS_PER_DAY);
    let time = seconds % SECONDS_PER_DAY;
    (year, month, day, time / 3600, time / 60 % 60, time % 60)
}

/// The preferred shape: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn format(timestamp: Timestamp) -> String {
    let (year, month, day, hour, minute, second) = parts(timestamp);
    let weekday = &WEEKDAYS[(timestamp.seconds() / SECONDS_PER_DAY % 7) as usize][..3];
    let month = MONTH_NAMES[month as usize - 1];
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// The shape of access logs: `06/Nov/1994:08:49:37 +0000`.
pub(crate) fn format_for_log(timestamp: Timestamp) -> String {
    let (year, month, day, hour, minute, second) = parts(timestamp);
    let month = MONTH_NAMES[month as usize - 1];
    format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
}

/// The shape of machine-readable logs (RFC 3339): `1994-11-06T08:49:37.000Z`.
pub(crate) fn format_rfc3339(timestamp: Timestamp) -> String {
    let (year, month, day, hour, minute, second) = parts(timestamp);
    let milliseconds = timestamp.0 % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_000_000_000); // November 2026

    #[test]
    fn three_shapes_and_nothing_else_are_dates() {
        #[rustfmt::skip]
        let table: [(&str, Option<u64>); 28] = [
            ("Sun, 06 Nov 1994 08:49:37 GMT",  Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994",       Some(784_111_777)),
            ("Sun Nov 06 08:49:37 1994",       Some(784_111_777)),
            ("sun, 06 nOV 1994 08:49:37 gmt",  Some(784_111_777)),
            ("Mon, 06 Nov 1994 08:49:37 GMT",  Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT",  Some(0)),
            ("Tue, 19 Jan 2038 14:14:08 GMT",  Some(2_147_523_248)),
            ("Sat, 20 Nov 2286 17:46:40 GMT",  Some(10_000_000_800 - 800)),
            ("Thu, 29 Feb 2024 00:00:00 GMT",  Some(1_709_164_800)),
            ("Saturday, 20-Nov-76 00:00:00 GMT", Some(3_373_056_000)),
            ("Saturday, 20-Nov-77 00:00:00 GMT", Some(248_832_000)),
            ("Wed, 29 Feb 2023 00:00:00 GMT",  None),
            ("Sun, 06 Nov 1994 08:49:37 UTC",  None),
            ("Sun, 06 Nov 1994 08:49:37",      None),
            ("Sun, 06 Nov 94 08:49:37 GMT",    None),
            ("Sun 06 Nov 1994 08:49:37 GMT",   None),
            ("Sun, 06  Nov 1994 08:49:37 GMT", None),
            ("Sun, 06-Nov-1994 08:49:37 GMT",  None),
            ("Sun, 06 Nov 1994 08.49.37 GMT",  None),
            ("Sun, 06 Nov 1994 8:49:37 GMT",   None),
            ("Sun, 6 Nov 1994 08:49:37 GMT",   None),
            ("Sun, 06 Nov 1994 08:49:37 GMT ", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT",  None),
            ("Xxx, 06 Nov 1994 08:49:37 GMT",  None),
            ("Sunday, 06 Nov 1994 08:49:37 GMT", None),
            ("0",                              None),
            ("",                               None),
        ];
        for (value, seconds) in table {
            let expected = seconds.map(Timestamp::from_seconds);
            assert_eq!(parse(value.as_bytes(), NOW), expected, "RFC 9110 §5.6.7: {value:?}");
        }
    }

    #[test]
    fn every_prefix_of_a_date_is_no_date() {
        for whole in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT"] {
            for length in 0..whole.len() {
                assert_eq!(parse(&whole.as_bytes()[..length], NOW), None, "{length} of {whole}");
            }
        }
    }

    #[test]
    fn formatting_and_parsing_agree() {
        for days in (0..200_000).step_by(17) {
            let moment = Timestamp::from_seconds(days * SECONDS_PER_DAY + days % SECONDS_PER_DAY);
            assert_eq!(parse(format(moment).as_bytes(), NOW), Some(moment));
        }
        assert_eq!(format_for_log(Timestamp(784_111_777_000)), "06/Nov/1994:08:49:37 +0000");
        assert_eq!(format_rfc3339(Timestamp(784_111_777_042)), "1994-11-06T08:49:37.042Z");
    }
}
