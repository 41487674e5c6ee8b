//! The house style, as far as a program can check it: who imports whom, which file may name which
//! dependency, how long files and functions are.

use std::path::{Path, PathBuf};

/// The layers, from the bottom: a file may import from its own layer and those before it.
const LAYERS: [&[&str]; 8] = [
    &["clock"],
    &["message"],
    &["policy"],
    &["growing", "har"],
    &["store", "origin", "flight"],
    &["recording"],
    &["proxy"],
    &["front", "control"],
];
/// Open to `front`, `control`, `proxy` and `recording`; seen by `main` and `start` alone; the map.
const APART: [&str; 5] = ["stats", "vital", "cli", "config", "lib"];
/// A dependency, and the files that may name it.
const FENCES: [(&str, &[&str]); 22] = [
    ("rustix::", &["handover.rs", "store/writer.rs"]),
    ("listenfd::", &["handover.rs"]),
    (
        "redis::",
        &[
            "store/redis/mod.rs",
            "store/redis/address.rs",
            "store/redis/sentinel.rs",
            "store/redis/link.rs",
            "store/redis/changes.rs",
            "store/redis/listing.rs",
            "store/redis/news.rs",
            "store/redis/values.rs",
        ],
    ),
    (
        "rusqlite::",
        &[
            "store/sqlite/mod.rs",
            "store/sqlite/schema.rs",
            "store/sqlite/changes.rs",
            "store/sqlite/invalidations.rs",
            "store/sqlite/room.rs",
            "store/sqlite/row.rs",
            "store/sqlite/spooled.rs",
        ],
    ),
    ("crc32fast::", &["store/codec.rs"]),
    ("ring::", &["policy/digest.rs", "store/salt.rs"]),
    (
        "serde_json::",
        &[
            "control.rs",
            "control/listing.rs",
            "control/metrics.rs",
            "commands.rs",
            "har.rs",
            "own_engine.rs",
            "proxy/recorded.rs",
            "recordings.rs",
            "target.rs",
            "warm.rs",
        ],
    ),
    ("form_urlencoded::", &["control.rs", "har.rs", "instances.rs"]),
    ("base64::", &["har.rs", "origin/trust.rs", "policy/credentials.rs"]),
    ("serde::", &["har.rs"]),
    ("sfv::", &["policy/targeted.rs"]),
    (
        "mio::",
        &[
            "front/tiny/pump.rs",
            "front/event/mod.rs",
            "front/event/event_loop.rs",
            "front/event/accept.rs",
        ],
    ),
    ("httparse::", &["front/event/parse.rs", "message/head.rs", "instances.rs"]),
    ("memmap2::", &["message/buffer.rs"]),
    (
        "ureq::",
        &["origin/client.rs", "origin/shown.rs", "origin/tls.rs", "origin/transport.rs", "warm.rs"],
    ),
    ("tiny_http::", &["front/tiny/mod.rs", "front/tiny/exchange.rs", "front/tiny/private.rs"]),
    ("quick_cache::", &["store/s3_fifo.rs"]),
    ("lru::", &["store/exact.rs"]),
    ("crossbeam_channel::", &["front/workers.rs"]),
    ("nix::", &["front/tiny/sockets.rs", "start.rs", "store/sqlite/schema.rs"]),
    ("pico_args::", &["cli.rs", "cli/commands.rs"]),
    ("simplelog::", &["start.rs"]),
];

fn sources() -> Vec<(String, String)> {
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("a file"))
        })
        .collect()
}

/// The files of the program; all others are the library's.
const PROGRAM: [&str; 12] = [
    "main",
    "start",
    "admin",
    "commands",
    "handover",
    "instances",
    "listen",
    "own_engine",
    "recordings",
    "stores",
    "target",
    "warm",
];

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().expect("a name")
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn imports_go_one_way() {
    for (file, text) in sources() {
        let own = room(&file);
        let Some(own_layer) = layer(own) else {
            assert!(APART.contains(&own) || PROGRAM.contains(&own), "{file} has no layer");
            continue;
        };
        for part in text.split("crate::").skip(1) {
            let other = part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
            let allowed = match layer(other) {
                Some(other_layer) => other_layer <= own_layer,
                None => {
                    other == "vital"
                        || other == "stats"
                            && ["front", "control", "proxy", "recording"].contains(&own)
                }
            };
            assert!(allowed, "{file} imports crate::{other}");
        }
    }
}

/// The standard library first, then other crates, then our own.
#[test]
fn imports_are_in_order() {
    for (file, text) in sources() {
        let header = text.split("#[cfg(test)]").next().unwrap_or(&text);
        let rank = |line: &str| match line.strip_prefix("use ")? {
            path if path.starts_with("std::") => Some(0),
            path if path.starts_with("crate::") || path.starts_with("caching_proxy::") => {
                // A program and its library: ours is the last group in the library's files, and
                // sorted among the crates in the program's.
                Some(if PROGRAM.contains(&room(&file)) && !file.contains('/') { 1 } else { 2 })
            }
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
        if !["policy", "message"].contains(&room(&file)) {
            continue;
        }
        for word in
            ["std::fs", "std::thread", "std::time", "Mutex", "log::", "TcpStream", "Instant::"]
        {
            assert!(!text.contains(word), "{file} has {word}");
        }
    }
}

#[test]
fn files_begin_with_what_they_are_and_stay_short() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{file} has no header");
        let lines = text.lines().count();
        assert!(lines <= 600, "{file} has {lines} lines");
        let body = text.split("#[cfg(test)]").next().unwrap_or(&text);
        assert!(!body.contains(".unwrap()"), "{file} unwraps without a word");
    }
}

#[test]
fn functions_stay_short() {
    for (file, text) in sources() {
        let mut begun: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_start = line.trim_start().starts_with("fn ")
                || line.contains(" fn ") && !line.trim_start().starts_with("//");
            if begun.is_none() && is_start && !line.trim_end().ends_with(';') {
                begun = Some((number, indent, line.trim().to_string()));
            }
            if let Some((start, outer, name)) = &begun
                && line.trim_end() == format!("{}}}", " ".repeat(*outer))
            {
                let length = number - start + 1;
                assert!(length <= 70, "{file}: {name} has {length} lines");
                begun = None;
            }
        }
    }
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
