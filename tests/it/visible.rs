//! Whatever clients and origin servers send, people read it as what it is: no output of a command, no page and no
//! line of a log has a character that hides, moves the cursor, or turns the direction of writing.

use std::fs;
use std::process::Output;

use proptest::collection::vec;
use proptest::prelude::*;

use caching_proxy::message::visible::{hides, visible, visible_lines};

use super::support::TemporaryFolder;
use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command};
use super::support::seeded::{Random, seeded};
use super::support::wire::Connection;

/// What a target or a field value may have; in HTTP/1.1, controls below U+0080 are no part of either.
const HOSTILE: [char; 10] = [
    '\u{202e}',
    '\u{2066}',
    '\u{200b}',
    '\u{9b}',
    '\u{85}',
    '\u{2028}',
    '\u{feff}',
    '\u{61c}',
    '\u{e0041}',
    '\u{ad}',
];

/// A word in which something hides.
fn hostile(random: &mut Random) -> String {
    let mut word = "gnp".to_string();
    for _ in 0..=random.below(4) {
        word.push(HOSTILE[random.below(HOSTILE.len())]);
        word.push(['a', '/', '日'][random.below(3)]);
    }
    word
}

/// Nothing hides in a text of lines.
fn assert_visible(what: &str, text: &str) {
    let hidden = text.chars().find(|c| hides(*c) && *c != '\n' && *c != '\t');
    assert_eq!(hidden, None, "{what}: {text:?}");
}

proptest! {
    #![proptest_config(seeded(None))]

    /// Any text at all; and what was visible is left as it was.
    #[test]
    fn any_text_is_made_visible(text in vec(any::<char>(), 0..40), hidden in vec(0..HOSTILE.len(), 0..4)) {
        let mut text: String = text.into_iter().collect();
        for at in hidden {
            text.insert(0, HOSTILE[at]);
            text.push(HOSTILE[at]);
        }
        let (line, lines) = (visible(&text), visible_lines(&text));
        prop_assert!(!line.contains(hides), "{line:?}");
        assert_visible("lines", &lines.replace("\r\n", "\n"));
        prop_assert_eq!(visible(&line), line.as_ref());
        let plain = |text: &str| text.chars().filter(|c| !hides(*c)).collect::<String>();
        prop_assert!(text.contains(hides) || line == text);
        prop_assert!(plain(&line).len() >= plain(&text).len());
    }
}

/// Neither stream hides anything, or has a line that was smuggled in.
fn assert_output_is_visible(words: &[&str], output: Output) {
    for (name, bytes) in [("stdout", output.stdout), ("stderr", output.stderr)] {
        let text = String::from_utf8(bytes).expect("text");
        assert_visible(&format!("{words:?} {name}"), &text);
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{words:?}: {text}");
        // It is not left out either.
        let has_target = name == "stdout" && ["list", "explain"].contains(&words[0]);
        assert!(!has_target || text.contains("\u{27e8}U+"), "{words:?}: {text}");
    }
}

#[test]
fn no_output_of_a_command_hides_anything() {
    let mut random = Random::new(202);
    let folder = TemporaryFolder::new();
    for round in 0..6 {
        let word = hostile(&mut random);
        let (target, tag) = (format!("/{word}"), hostile(&mut random).replace('\u{85}', ""));
        let fields = format!(
            "Cache-Control: max-age=600; Vary: X-Kind; Surrogate-Key: all {tag}; ETag: \"{word}\"; X-{round}: {word}"
        );
        let odd = format!("Cache-Control: max-age=600; Vary: X-Kind, {word}; Location: /{word}");
        let origin = Origin::script([
            on("GET /odd").send(200, &odd, &word).always(),
            on("GET *any*").send(200, &fields, &word).always(),
        ]);
        let log = folder.file(&format!("access-{round}"));
        let format = ["combined", "json"][round % 2];
        let log_args = ["--access-log", log.to_str().expect("text"), "--log-level", "debug"];
        let args = [&log_args[..], &["--access-log-format", format]].concat();
        let mut proxy = Proxy::before(&origin, &args);
        let kind = format!("X-Kind: {word}\r\n");
        let field = format!("X-Kind: {word}");
        for target in [&target, "/odd"] {
            assert_eq!(proxy.get_with(target, &kind).status, 200, "{target:?}");
        }
        let (urls, archive) = (folder.file("urls"), folder.file("all.har"));
        let (urls, archive) = (urls.to_str().expect("text"), archive.to_str().expect("text"));
        // The second one ends its line, and is no target.
        let sitemap = format!("<urlset><loc>{target}</loc><loc>/a\x1b[2J\nforged: {word}</loc>");
        fs::write(urls, sitemap).expect("a file");
        let words: [&[&str]; 13] = [
            &["explain", "/odd", "-H", &field],
            &["show", "/odd"],
            &["list"],
            &["show", &target],
            &["explain", &target, "-H", &field],
            &["warm", urls],
            &["stats"],
            &["top", "--count", "1"],
            &["export", archive],
            &["import", archive],
            &["purge", "--tag", &tag],
            &["show", &target],
            &["purge", &target],
        ];
        // Its second takes a second.
        let is_asked = |words: &&&[&str]| words[0] != "top" || round == 0;
        for words in words.iter().filter(is_asked) {
            let output = proxy.tell(words);
            assert_output_is_visible(words, output);
        }
        let (_, _, told) = proxy.stop();
        assert_visible("the log", &told);
        let lines = fs::read_to_string(&log).expect("a file");
        assert!(lines.contains("/gnp"), "{lines}");
        assert_visible("the access log", &lines);
    }
}

/// A store by itself is shown by the command's own engine, and a log line is one whatever is purged.
#[cfg(feature = "sqlite")]
#[test]
fn a_store_by_itself_and_the_control_interface_hide_nothing() {
    let folder = TemporaryFolder::new();
    let store = format!("sqlite:{}", folder.file("cache.db").display());
    let word = "x\u{202e}y\u{9b}z";
    let fields = format!("Cache-Control: max-age=600; X: {word}");
    let origin = Origin::script([on("GET *any*").send(200, &fields, "a").always()]);
    let mut proxy = Proxy::before(&origin, &["--store", &store, "--admin", "127.0.0.1:0"]);
    proxy.get(&format!("/{word}"));
    let log = proxy.log();
    let admin = log.lines().find_map(|line| line.split_once("control interface at http://"));
    let admin = admin.expect("a line").1.trim().parse().expect("an address");
    let coded = "x%E2%80%AEy%C2%9Bz";
    for target in [
        format!("/show?text=1&url=/{coded}"),
        format!("/explain?url=/{coded}"),
        format!("/show?url=/none{coded}"),
        format!("/{word}"),
    ] {
        let text = Connection::open(admin).request("GET", &target, "", "").reply().body();
        assert_visible(&target, &text);
        assert!(text.contains("\u{27e8}U+202E\u{27e9}"), "{target}: {text}");
    }
    let purge = "/purge?tag=a%0A2026-01-01T00:00:00Z%20%5BERROR%5D%20forged%1B%5B2J";
    assert_eq!(Connection::open(admin).request("POST", purge, "", "").reply().status, 200);
    let (_, _, told) = proxy.stop();
    assert_visible("the log", &told);
    let purged = told.lines().find(|line| line.contains("forged")).expect("a line");
    assert!(
        purged.contains("control: purged") && purged.contains("\u{27e8}U+000A\u{27e9}"),
        "{told}"
    );
    let url = origin.url();
    for words in [&["list"][..], &["show", &format!("/{word}")]] {
        let mut told = command();
        told.args(words).args(["--store", &store, "--origin", &url]);
        let output = told.env("XDG_RUNTIME_DIR", folder.path()).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        assert_visible(words[0], &text);
        assert!(text.contains("\u{27e8}U+"), "{words:?}: {text} {:?}", output.stderr);
    }
}
