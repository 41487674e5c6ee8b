//! Field lines: their order, the spelling of their names, and lists in their values.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

#[test]
fn commas_in_quoted_strings_separate_nothing() {
    #[rustfmt::skip]
    let table: [(&str, &[&str]); 6] = [
        ("a, b ,c",            &["a", "b", "c"]),
        (", ,a,,",             &["a"]),
        (r#"a="x,y", b"#,      &[r#"a="x,y""#, "b"]),
        (r#"a="x\",y", b"#,    &[r#"a="x\",y""#, "b"]),
        (r#"a="never ends, b"#, &[r#"a="never ends, b"#]),
        ("",                   &[]),
    ];
    for (value, expected) in table {
        let members: Vec<_> = list_members(value.as_bytes()).collect();
        let expected: Vec<_> = expected.iter().map(|member| member.as_bytes()).collect();
        assert_eq!(members, expected, "RFC 9110 §5.6.1: {value}");
    }
}

/// Names of all kinds: short and long, with exceptions, digits, and bytes that have no case.
fn names() -> Vec<String> {
    let mut names: Vec<String> =
        ["a", "te", "etag", "content-type", "x-1a-b_c", "--", "a-", "!#$%&'*+.^_`|~-z"]
            .map(str::to_string)
            .into();
    for length in [7, 8, 9, 16, 63, 64, 65, 127, 128, 129, 200] {
        names.push("x-ab1_-".chars().cycle().take(length).collect());
        // The hyphen stands last in one word of a spelling, the letter behind it first in the next.
        names.push(format!("{}-{}", "a".repeat(length - 1), "b".repeat(3)));
    }
    names
}

fn written(fields: &Fields) -> String {
    let mut out = Vec::new();
    fields.write_to(&mut out);
    String::from_utf8(out).expect("ASCII")
}

/// The same fields after a store has held their names.
fn restored(fields: &Fields) -> Fields {
    let mut restored = Fields::new();
    for line in fields.lines() {
        let mut stored = Vec::new();
        line.write_stored_name(&mut stored);
        assert!(stored.eq_ignore_ascii_case(line.name.as_str().as_bytes()));
        restored.append_stored(&stored, line.value.clone()).expect("a name");
    }
    restored
}

#[test]
fn a_name_goes_out_as_it_came_whichever_letters_are_capitals() {
    let value = HeaderValue::from_static("v");
    for name in names() {
        let usual = written(
            &[(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.clone())]
                .into_iter()
                .collect(),
        );
        let usual = usual.strip_suffix(": v\r\n").expect("one line").to_string();
        let toggled = (0..name.len()).map(|at| {
            let mut toggled = usual.clone().into_bytes();
            if toggled[at].is_ascii_alphabetic() {
                toggled[at] ^= 0x20;
            }
            String::from_utf8(toggled).expect("ASCII")
        });
        let spelt = [name.clone(), name.to_ascii_uppercase(), usual.clone()];
        for spelt in toggled.chain(spelt) {
            let mut fields = Fields::new();
            for spelt in ["Before", &spelt, "Behind"] {
                fields.append_spelt(spelt.as_bytes(), value.clone()).expect("a name");
            }
            let expected = format!("Before: v\r\n{spelt}: v\r\nBehind: v\r\n");
            assert_eq!(written(&fields), expected, "RFC 9110 §5.1");
            let restored = restored(&fields);
            assert_eq!(written(&restored), expected, "from a store");
            assert_eq!(restored, fields);
            let is_usual = fields.spellings == Spellings::default();
            assert_eq!(is_usual, spelt == usual, "the usual capitals take no memory: {spelt}");
            fields.remove(&name);
            assert_eq!(fields.spellings, Spellings::default(), "{spelt} was the only one");
        }
    }
}

#[test]
fn what_is_no_name_is_no_line() {
    let mut fields = Fields::new();
    for spelt in ["", "a b", "a:", "\u{e4}", "A\n"] {
        let value = HeaderValue::from_static("v");
        assert!(fields.append_spelt(spelt.as_bytes(), value.clone()).is_err(), "{spelt:?}");
        assert!(fields.append_stored(spelt.as_bytes(), value).is_err(), "{spelt:?}");
    }
    assert_eq!(fields, Fields::new());
}

/// A change to fields, and to the lines that a plain model of them has. Names are indices, and a bit for each
/// letter that is a capital, from the first letter on again and again.
#[derive(Clone, Debug)]
enum LineChange {
    Append(usize),
    AppendSpelt(usize, u8),
    AppendLine(usize),
    Remove(usize),
    Set(usize),
    SetLast(usize),
    RemoveAllButFirst(usize),
    Restore,
}

fn changes() -> impl Strategy<Value = Vec<LineChange>> {
    let name = || 0..names().len();
    let change = prop_oneof![
        2 => name().prop_map(LineChange::Append),
        6 => (name(), any::<u8>()).prop_map(|(name, capitals)| LineChange::AppendSpelt(name, capitals)),
        2 => name().prop_map(LineChange::AppendLine),
        2 => name().prop_map(LineChange::Remove),
        1 => name().prop_map(LineChange::Set),
        1 => name().prop_map(LineChange::SetLast),
        1 => name().prop_map(LineChange::RemoveAllButFirst),
        1 => Just(LineChange::Restore),
    ];
    // Few names of all, so that many lines share one.
    (proptest::collection::vec(change, 0..60), 1..names().len()).prop_map(|(changes, few)| {
        let few = |name: usize| name % few;
        let fewer = |change| match change {
            LineChange::Append(name) => LineChange::Append(few(name)),
            LineChange::AppendSpelt(name, capitals) => LineChange::AppendSpelt(few(name), capitals),
            LineChange::Remove(name) => LineChange::Remove(few(name)),
            LineChange::Set(name) => LineChange::Set(few(name)),
            LineChange::SetLast(name) => LineChange::SetLast(few(name)),
            LineChange::RemoveAllButFirst(name) => LineChange::RemoveAllButFirst(few(name)),
            other => other,
        };
        changes.into_iter().map(fewer).collect()
    })
}

fn usual(name: &str) -> String {
    let mut out = Vec::new();
    write_usual(&mut out, &HeaderName::from_bytes(name.as_bytes()).expect("a name"));
    String::from_utf8(out).expect("ASCII")
}

fn in_capitals(name: &str, capitals: u8) -> String {
    let letter = |(at, letter): (usize, char)| match capitals >> (at % 8) & 1 {
        1 => letter.to_ascii_uppercase(),
        _ => letter,
    };
    name.chars().enumerate().map(letter).collect()
}

/// Makes the change to both. Values are numbers, so that each line is told from all others.
fn make(change: &LineChange, number: usize, fields: &mut Fields, model: &mut Vec<(String, usize)>) {
    let names = names();
    let name = |name: usize| HeaderName::from_bytes(names[name].as_bytes()).expect("a name");
    let value = HeaderValue::from(number);
    let is = |nth: usize| move |spelt: &str| spelt.eq_ignore_ascii_case(&self::names()[nth]);
    match *change {
        LineChange::Append(nth) => {
            fields.append(name(nth), value);
            model.push((usual(&names[nth]), number));
        }
        LineChange::AppendSpelt(nth, capitals) => {
            let spelt = in_capitals(&names[nth], capitals);
            fields.append_spelt(spelt.as_bytes(), value).expect("a name");
            model.push((spelt, number));
        }
        LineChange::AppendLine(nth) if !model.is_empty() => {
            let nth = nth % model.len();
            let other = fields.clone();
            fields.append_line(other.lines().nth(nth).expect("as many as in the model"));
            model.push(model[nth].clone());
        }
        LineChange::AppendLine(_) => {}
        LineChange::Remove(nth) => {
            fields.remove(&names[nth]);
            model.retain(|(spelt, _)| !is(nth)(spelt));
        }
        LineChange::Set(nth) => {
            fields.set(name(nth), value);
            match model.iter().position(|(spelt, _)| is(nth)(spelt)) {
                Some(first) => {
                    model[first].1 = number;
                    let mut at = 0..;
                    model.retain(|(spelt, _)| at.next() <= Some(first) || !is(nth)(spelt));
                }
                None => model.push((usual(&names[nth]), number)),
            }
        }
        LineChange::SetLast(nth) => {
            fields.set_last(name(nth), value);
            model.retain(|(spelt, _)| !is(nth)(spelt));
            model.push((usual(&names[nth]), number));
        }
        LineChange::RemoveAllButFirst(nth) => {
            fields.remove_all_but_first(&name(nth));
            let mut seen = 0;
            model.retain(|(spelt, _)| {
                seen += usize::from(is(nth)(spelt));
                seen <= 1 || !is(nth)(spelt)
            });
        }
        LineChange::Restore => *fields = restored(fields),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(9110),
        failure_persistence: None,
        cases: 100,
        ..ProptestConfig::default()
    })]

    /// Whatever is added, replaced and removed: lines go out in their order, each name as it was spelt when
    /// its line was added.
    #[test]
    fn lines_go_out_in_order_and_as_they_were_spelt(changes in changes()) {
        let (mut fields, mut model) = (Fields::new(), Vec::new());
        for (number, change) in changes.into_iter().enumerate() {
            make(&change, number, &mut fields, &mut model);
            let expected: Vec<_> = model.iter().map(|(spelt, number)| format!("{spelt}: {number}\r\n")).collect();
            prop_assert_eq!(written(&fields), expected.concat());
            // Fields with the same lines are equal, whatever they were before.
            prop_assert_eq!(&restored(&fields), &fields);
            let mut copy = Fields::new();
            fields.lines().for_each(|line| copy.append_line(line));
            prop_assert_eq!(&copy, &fields);
        }
    }
}

#[test]
fn numbers_are_written_in_digits() {
    for number in [0, 7, 10, 12_345, u64::MAX] {
        let mut out = b"x".to_vec();
        write_decimal(&mut out, number);
        assert_eq!(String::from_utf8_lossy(&out), format!("x{number}"));
    }
}

#[test]
fn two_lines_hold_no_date() {
    let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
    let mut fields = Fields::new();
    fields.append(HeaderName::from_static("expires"), date.clone());
    assert!(fields.date("expires", Timestamp(0)).is_some());
    fields.append(HeaderName::from_static("expires"), date);
    assert!(fields.date("expires", Timestamp(0)).is_none());
}
