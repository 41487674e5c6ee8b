//! The house style, as far as a program can check it: the rooms and who imports whom, which file may name
//! which dependency, which name stands for what, how long files and functions are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The files at the top of `src`; all others are in rooms. `vital` starts the threads that the process cannot
/// do without: each room below the program has such threads, so it belongs to none of them.
const TOP: [&str; 4] = ["main.rs", "lib.rs", "clock.rs", "vital.rs"];
/// The rooms, from the bottom: a file may import from its own layer and those before it.
const LAYERS: [&[&str]; 9] = [
    &["clock", "vital"],
    &["message"],
    &["policy"],
    &["store", "origin"],
    &["proxy"],
    &["front", "control"],
    &["daemon"],
    &["commands"],
    &["main"],
];
/// Beside the layers: which rooms may import from it.
const BESIDE: [(&str, &[&str]); 2] = [
    ("stats", &["cli", "proxy", "front", "control", "daemon", "commands"]),
    ("cli", &["daemon", "commands", "main"]),
];
/// The one file of `message` that several threads share: a body that some write and others read.
const SHARED_BODY: &str = "message/growing";
/// A dependency, and the files that may name it.
const FENCES: [(&str, &[&str]); 27] = [
    (
        "rustix::",
        &[
            "commands/terminal.rs",
            "daemon/mod.rs",
            "daemon/takeover.rs",
            "front/event/event_loop.rs",
            "front/tiny/sockets.rs",
            "origin/evented/piping.rs",
            "store/packing.rs",
            "store/sqlite/schema.rs",
            "store/tiers/writer.rs",
        ],
    ),
    ("listenfd::", &["daemon/systemd.rs"]),
    (
        "redis::",
        &[
            "store/redis/mod.rs",
            "store/redis/address.rs",
            "store/redis/changes.rs",
            "store/redis/content.rs",
            "store/redis/link.rs",
            "store/redis/links.rs",
            "store/redis/listing.rs",
            "store/redis/news.rs",
            "store/redis/responses.rs",
            "store/redis/scripts.rs",
            "store/redis/sentinel.rs",
            "store/redis/shared.rs",
            "store/redis/values.rs",
        ],
    ),
    (
        "rusqlite::",
        &[
            "store/sqlite/mod.rs",
            "store/sqlite/batch.rs",
            "store/sqlite/changes.rs",
            "store/sqlite/checkpoint.rs",
            "store/sqlite/database.rs",
            "store/sqlite/invalidations.rs",
            "store/sqlite/pages.rs",
            "store/sqlite/recall.rs",
            "store/sqlite/refused.rs",
            "store/sqlite/row.rs",
            "store/sqlite/schema.rs",
            "store/sqlite/space.rs",
            "store/sqlite/spooled.rs",
            "store/sqlite/tables.rs",
            "store/sqlite/uses.rs",
            "store/sqlite/valuable.rs",
        ],
    ),
    ("crc32fast::", &["store/codec.rs"]),
    ("ring::", &["policy/digest.rs", "store/salt.rs"]),
    (
        "serde_json::",
        &[
            "control/mod.rs",
            "control/listing.rs",
            "policy/response.rs",
            "proxy/operate.rs",
            "stats/access_log.rs",
            "control/live.rs",
            "control/metrics.rs",
            "control/shown.rs",
            "control/table.rs",
            "commands/mod.rs",
            "commands/top/page.rs",
            "commands/top/sample.rs",
            "proxy/archive/har.rs",
            "proxy/archive/har/tests.rs",
            "proxy/archive/stream.rs",
            "commands/archive.rs",
            "commands/target.rs",
        ],
    ),
    ("form_urlencoded::", &["control/query.rs", "proxy/archive/har.rs", "daemon/instances.rs"]),
    ("base64::", &["proxy/archive/har.rs", "origin/trust.rs", "policy/credentials.rs"]),
    (
        "serde::",
        &[
            "proxy/archive/har.rs",
            "proxy/archive/mod.rs",
            "proxy/archive/stream.rs",
            "control/mod.rs",
            "control/table.rs",
            "commands/target.rs",
            "commands/top/sample.rs",
            "stats/access_log.rs",
        ],
    ),
    ("sfv::", &["policy/targeted.rs"]),
    (
        "mio::",
        &[
            "front/tiny/pump.rs",
            "front/event/mod.rs",
            "front/event/event_loop.rs",
            "front/event/accept.rs",
            "origin/evented/exchange.rs",
            "origin/evented/exchanges/connecting.rs",
            "origin/evented/exchanges/mod.rs",
            "origin/evented/stream.rs",
        ],
    ),
    ("httparse::", &["front/event/parse.rs", "message/head.rs", "daemon/instances.rs"]),
    ("memmap2::", &["message/buffer.rs"]),
    ("zstd::", &["message/packed.rs"]),
    (
        "ureq::",
        &[
            "origin/blocking/client.rs",
            "origin/blocking/substitute.rs",
            "origin/blocking/tls.rs",
            "origin/blocking/transport.rs",
            "origin/blocking/without_tls.rs",
            "origin/blocking/plain.rs",
        ],
    ),
    ("tiny_http::", &["front/tiny/mod.rs", "front/tiny/exchange.rs"]),
    ("quick_cache::", &["store/memory/cost.rs", "store/memory/s3_fifo.rs"]),
    ("lru::", &["store/memory/exact.rs"]),
    ("crossbeam_channel::", &["front/workers/fixed.rs"]),
    ("nix::", &["front/tiny/sockets.rs"]),
    ("itoa::", &["message/fields.rs"]),
    ("ipnet::", &["message/network.rs"]),
    ("pico_args::", &["cli/parse.rs", "cli/arguments.rs", "cli/task.rs"]),
    ("strsim::", &["cli/closest.rs"]),
    ("unicode_width::", &["commands/terminal.rs"]),
    ("simplelog::", &["daemon/log_lines.rs"]),
];

/// Plain comments (reasons) on each thousand lines of code of `src`, at least. It only ever rises.
const REASONS_MIN: usize = 40;

/// The program and its library: path below `src`, and text.
fn sources() -> Vec<(String, String)> {
    files("src")
}

/// The tests, this file among them: path below `tests`, and text.
fn tests() -> Vec<(String, String)> {
    files("tests")
}

fn files(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    walk(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below it").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("a file"))
        })
        .collect()
}

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().expect("a name")
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// A file without its tests.
fn without_tests(text: &str) -> &str {
    text.split("\nmod tests {").next().unwrap_or(text)
}

/// A file without its tests and its comments.
fn code(text: &str) -> String {
    let lines = without_tests(text).lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a file imports, or names where it uses them, from the crate's root.
fn paths(code: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for root in ["crate::", "caching_proxy::"] {
        for part in code.split(root).skip(1) {
            let path: String = part.chars().take_while(|c| is_path(*c)).collect();
            match part[path.len()..].strip_prefix('{') {
                // `use crate::store::{self, Put};`
                Some(names) => {
                    let names = names.split('}').next().unwrap_or_default();
                    found.extend(names.split(',').map(|name| format!("{path}{}", name.trim())));
                }
                None => found.push(path),
            }
        }
    }
    found
}

#[test]
fn the_top_of_src_is_the_map() {
    let rooms: BTreeSet<&str> = LAYERS
        .iter()
        .flat_map(|rooms| rooms.iter().copied())
        .chain(BESIDE.iter().map(|(room, _)| *room))
        .filter(|room| !TOP.contains(&format!("{room}.rs").as_str()))
        .collect();
    let mut seen = BTreeSet::new();
    for (file, _) in sources() {
        match file.split_once('/') {
            None => assert!(TOP.contains(&file.as_str()), "{file} is in no room"),
            Some((room, _)) => {
                assert!(rooms.contains(room), "{file} is in a room that is not on the map");
                seen.insert(room.to_string());
            }
        }
    }
    assert_eq!(seen.len(), rooms.len(), "a room is empty: {rooms:?}");
}

#[test]
fn imports_go_one_way() {
    for (file, text) in sources() {
        let own = room(&file);
        if own == "lib" {
            continue;
        }
        for path in paths(&text) {
            let other = path.split(':').next().unwrap_or_default();
            let beside = |name: &str| BESIDE.iter().find(|(room, _)| *room == name);
            let allowed = match (layer(own), layer(other)) {
                _ if own == other || other == "vital" => true,
                (Some(own), Some(other)) => other <= own,
                // What is beside the layers imports what is below those that import it.
                (None, Some(other)) => beside(own).is_some_and(|(_, users)| {
                    users.iter().any(|user| layer(user).is_some_and(|user| other < user))
                }),
                (_, None) => beside(other).is_some_and(|(_, users)| users.contains(&own)),
            };
            assert!(allowed, "{file} imports {path}");
        }
    }
}

/// What two files need of each other belongs below both.
#[test]
fn no_two_files_import_each_other() {
    let module =
        |file: &str| file.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
    let files: BTreeMap<String, String> =
        sources().into_iter().map(|(file, text)| (module(&file), code(&text))).collect();
    let mut imports = BTreeSet::new();
    for (name, code) in &files {
        for path in paths(code) {
            // The file that the path leads to: its longest beginning that is a module.
            let words: Vec<&str> = path.split("::").collect();
            let lengths = (1..=words.len()).rev();
            let target = lengths
                .map(|length| words[..length].join("::"))
                .find(|path| files.contains_key(path));
            if let Some(target) = target.filter(|target| target != name) {
                imports.insert((name.clone(), target));
            }
        }
    }
    let circles: Vec<_> = imports
        .iter()
        .filter(|(one, other)| one < other && imports.contains(&(other.clone(), one.clone())))
        .collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

/// One name, one type; a name of one function's own does not count, nor what stands for a feature that was left out.
#[test]
fn a_name_stands_for_one_type() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in sources() {
        if file.contains("/without_") {
            continue;
        }
        for line in code(&text).lines() {
            let line = line
                .strip_prefix("pub ")
                .or_else(|| {
                    line.strip_prefix("pub(")
                        .and_then(|rest| rest.split_once(") "))
                        .map(|(_, rest)| rest)
                })
                .unwrap_or(line);
            let kind = ["struct ", "enum ", "trait ", "type "];
            let Some(rest) = kind.iter().find_map(|kind| line.strip_prefix(kind)) else { continue };
            let name: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            places.entry(name).or_default().push(file.clone());
        }
    }
    let mut several = Vec::new();
    for (name, files) in places {
        if files.len() > 1 {
            several.push(format!("{name}: {files:?}"));
        }
    }
    assert!(several.is_empty(), "these names stand for several types: {several:#?}");
}

/// The standard library first, then other crates, then our own.
#[test]
fn imports_are_in_order() {
    const OURS: [&str; 4] = ["crate::", "caching_proxy::", "super::", "self::"];
    for (file, text) in sources() {
        let header = without_tests(&text);
        let rank = |line: &str| match line.strip_prefix("use ")? {
            path if path.starts_with("std::") => Some(0),
            path if OURS.iter().any(|ours| path.starts_with(ours)) => Some(2),
            _ => Some(1),
        };
        let ranks: Vec<u8> = header.lines().filter_map(rank).collect();
        assert!(ranks.is_sorted(), "{file}: imports are out of order");
    }
}

#[test]
fn dependencies_stay_behind_their_fences() {
    for (file, text) in sources() {
        for (dependency, files) in FENCES {
            // `http::` ends several names; a word must begin where the dependency's name does.
            let named = text.match_indices(dependency).any(|(at, _)| {
                let before = text[..at].chars().next_back();
                !before.is_some_and(|before| {
                    before.is_alphanumeric() || before == '_' || before == ':'
                })
            });
            assert!(!named || files.contains(&file.as_str()), "{file} names {dependency}");
        }
    }
}

#[test]
fn policy_and_messages_do_nothing_but_compute() {
    for (file, text) in sources() {
        if !["policy", "message"].contains(&room(&file)) || file.starts_with(SHARED_BODY) {
            continue;
        }
        for word in
            ["std::fs", "std::thread", "Mutex", "log::", "TcpStream", "Instant", "SystemTime"]
        {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
}

#[test]
fn files_begin_with_what_they_are_and_stay_short() {
    for (file, text) in sources().into_iter().chain(tests()) {
        assert!(text.starts_with("//! "), "{file} has no header");
        let lines = text.lines().count();
        assert!(lines <= 600, "{file} has {lines} lines: split it by subject");
    }
}

#[test]
fn the_program_never_unwraps_without_a_word() {
    for (file, text) in sources() {
        let body = without_tests(&text);
        assert!(!body.contains(".unwrap()"), "{file} unwraps without a word");
    }
}

/// Functions, by the indentation at which they begin and end: name, and lines with the signature.
fn functions(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut begun: Option<(usize, String, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if let Some((start, end, name)) = &begun {
            if line.trim_end() == end {
                found.push((name.clone(), number - start + 1));
                begun = None;
            } else if line.ends_with(';') && line.starts_with(&end.replace('}', ")")) {
                // A trait's function, which has no body.
                begun = None;
            }
            continue;
        }
        let words: Vec<&str> = code.split(' ').collect();
        let at = words.iter().position(|word| *word == "fn").filter(|_| !code.starts_with("//"));
        if let Some(name) = at.and_then(|at| words.get(at + 1))
            && !code.ends_with(['}', ';'])
        {
            let name = name.split(['(', '<']).next().unwrap_or_default().to_string();
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            begun = Some((number, end, name));
        }
    }
    found
}

#[test]
fn functions_stay_short() {
    for (file, text) in sources().into_iter().chain(tests()) {
        for (name, lines) in functions(&text) {
            assert!(lines <= 60, "{file}: {name} has {lines} lines, and may have 60");
        }
    }
}

/// A name that is longer is read once; a short one is looked up each time.
#[test]
fn names_are_whole_words() {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (file, text) in sources() {
        // A command of openssl's has this name.
        let code = code(&text).replace("openssl req ", "");
        for word in code.split(|c| !is_word(c)) {
            let is_short = ["req", "resp", "hdr", "ctx", "util", "utils"].contains(&word);
            let is_vague = ["Manager", "Helper"].iter().any(|end| word.ends_with(end));
            assert!(!is_short && !is_vague, "{file} says {word}");
        }
        // `http` has a `get_all`, and ours stands in for it.
        let getters = code.split("fn get_").skip(1).map(str::to_string).collect::<Vec<_>>();
        assert!(getters.iter().all(|name| name.starts_with("all")), "{file}: a getter is not get_");
    }
}

/// A reader knows HTTP's words; ours would be a second language. In rooms that are free of them they stay out.
#[test]
fn names_are_no_metaphors() {
    const ROOMS: [&str; 4] = ["front/", "proxy/", "control/", "stats/"];
    #[rustfmt::skip]
    const METAPHORS: [&str; 15] = [
        "desk", "letter", "letters", "bell", "glance", "glances", "told", "room", "place", "places", "rehearsal",
        "audience", "patience", "patient", "deaf",
    ];
    for (file, text) in sources() {
        if !ROOMS.iter().any(|room| file.starts_with(room)) {
            continue;
        }
        for word in code(&text).split(|c: char| !c.is_alphanumeric() && c != '_') {
            let words = parts(word);
            let metaphor = METAPHORS.iter().find(|metaphor| words.iter().any(|w| w == *metaphor));
            assert!(metaphor.is_none(), "{file} says {word}");
        }
    }
}

/// The words that a name is made of: `inbox_of` and `InboxOf` are both of two.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        if c == '_' || c.is_uppercase() && before.is_lowercase() {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().expect("one at least").extend(c.to_lowercase());
        }
        before = c;
    }
    parts
}

/// What the operator reads says what was seen, and what is left to do has a number.
#[test]
fn some_words_are_not_used() {
    for (file, text) in sources() {
        assert!(!text.contains("failed to"), "{file}: say what was seen, not what failed");
        for line in text.lines().filter(|line| line.contains("TODO") || line.contains("FIXME")) {
            assert!(line.contains('#'), "{file}: no issue's number: {line}");
        }
    }
}

/// Tests wait for what they test, and for as long as it takes. Clients from outside have clocks of their own.
#[test]
fn tests_do_not_sleep() {
    let sleep = ["thread", "sleep("].join("::");
    for (file, text) in tests() {
        let sleeps = text.contains(&sleep);
        assert!(!sleeps || file == "it/clients.rs", "{file} sleeps");
    }
    for (file, text) in sources() {
        let tests = text.split("\nmod tests {").skip(1);
        assert!(tests.into_iter().all(|text| !text.contains(&sleep)), "{file}: its tests sleep");
    }
}

/// Why a line is there stands beside it. Documentation (`///`, `//!`) says what, and does not count.
#[test]
fn reasons_do_not_get_fewer() {
    let (mut reasons, mut code) = (0, 0);
    for (_, text) in sources() {
        for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            match line {
                doc if doc.starts_with("///") || doc.starts_with("//!") => {}
                reason if reason.starts_with("//") => reasons += 1,
                _ => code += 1,
            }
        }
    }
    println!("{reasons} plain comment lines, {code} lines of code");
    let thousandth = reasons * 1000 / code;
    assert!(
        thousandth >= REASONS_MIN,
        "{thousandth} plain comment lines on 1000 lines of code; there were {REASONS_MIN}"
    );
}

/// No async runtime anywhere in the dependency tree.
#[test]
fn there_is_no_async_runtime() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"));
    let lock = lock.expect("Cargo.lock is committed");
    for name in ["tokio", "async-std", "smol", "futures-executor", "async-executor"] {
        assert!(!lock.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
