//! The documents: links that lead somewhere, flags that exist, the table of `detail=` words, and a README that
//! is read to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::support::proxy::run;

/// Lines of the README.
const README_LINES_MAX: usize = 120;
/// Commands with a help text of their own.
const COMMANDS: [&str; 10] =
    ["stats", "top", "list", "show", "explain", "purge", "warm", "export", "import", "help"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All documents, by their path from the root.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for folder in ["", "docs"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(root()).expect("it is below the root");
                all.insert(name.to_path_buf(), read(&path));
            }
        }
    }
    assert!(all.len() > 8, "documents are missing: {:?}", all.keys());
    all
}

/// The lines outside of code blocks, and those inside.
fn prose_and_code(text: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut prose, mut code, mut is_code) = (Vec::new(), Vec::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            code.push(line);
        } else {
            prose.push(line);
        }
    }
    assert!(!is_code, "a code block has no end");
    (prose, code)
}

/// The targets of links in Markdown.
fn links(prose: &[&str]) -> Vec<String> {
    let text = prose.join(" ");
    let rests = text.split("](").skip(1);
    rests.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_string()).collect()
}

/// What a heading is called in a link, as GitHub has it.
fn anchors(text: &str) -> BTreeSet<String> {
    let (prose, _) = prose_and_code(text);
    let headings = prose.into_iter().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = |letter: &char| letter.is_alphanumeric() || " -_".contains(*letter);
            heading
                .chars()
                .filter(kept)
                .map(|letter| if letter == ' ' { '-' } else { letter })
                .collect()
        })
        .collect()
}

/// `path` without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().expect("a readable path").split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop().expect("a link stays in the repository"),
            part => parts.push(part),
        }
    }
    parts.iter().collect()
}

#[test]
fn links_lead_to_files_and_headings() {
    let documents = documents();
    for (name, text) in &documents {
        let folder = name.parent().expect("a file is in a folder");
        for link in links(&prose_and_code(text).0) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let path = if path.is_empty() { name.clone() } else { normal(&folder.join(path)) };
            let is_there = root().join(&path).exists();
            assert!(is_there, "{}: {link}: no such file", name.display());
            if !anchor.is_empty() {
                let target = documents.get(&path).unwrap_or_else(|| panic!("{link}: no document"));
                let is_heading = anchors(target).contains(anchor);
                assert!(is_heading, "{}: {link}: no such heading", name.display());
            }
        }
    }
}

/// A file that is moved is moved in the documents, too.
#[test]
fn files_that_are_named_exist() {
    let mut named = 0;
    for (document, text) in documents() {
        let words = text.split('`').skip(1).step_by(2);
        let is_file = |word: &&str| {
            word.contains('/') && Path::new(word).extension().is_some_and(|end| end == "rs")
        };
        let files = words.filter(is_file);
        for file in files {
            let is_there = ["", "src"].iter().any(|folder| root().join(folder).join(file).exists());
            assert!(is_there, "{}: {file}", document.display());
            named += 1;
        }
    }
    assert!(named > 10, "{named} files are named");
}

#[test]
fn readme_leads_to_every_document() {
    let documents = documents();
    let linked = links(&prose_and_code(&documents[Path::new("README.md")]).0);
    for name in documents.keys().filter(|name| name.starts_with("docs")) {
        let name = name.display().to_string();
        assert!(linked.contains(&name), "README.md has no link to {name}");
    }
}

#[test]
fn readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines; move some to docs/");
}

/// The words of `Detail`, from its source: its variants, in the spelling of RFC 9211.
fn detail_words() -> BTreeSet<String> {
    let source = read(&root().join("src/policy/reason.rs"));
    let (_, rest) = source.split_once("pub enum Detail {").expect("the enum");
    let (variants, rest) = rest.split_once("\n}").expect("its end");
    let names = variants.lines().map(str::trim).filter_map(|line| line.strip_suffix(','));
    let mut words = BTreeSet::new();
    for name in names.filter(|name| name.chars().all(char::is_alphanumeric)) {
        let mut word = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !word.is_empty() {
                word.push('-');
            }
            word.extend(letter.to_lowercase());
        }
        assert!(rest.contains(&format!("\"{word}\"")), "{name}: its word is not \"{word}\"");
        words.insert(word);
    }
    assert!(words.len() > 40, "the variants were not found: {words:?}");
    words
}

#[test]
fn every_detail_word_has_a_meaning_and_a_cure() {
    let text = read(&root().join("docs/caching.md"));
    let (_, table) = text.split_once("### The words behind `detail=`").expect("the table");
    let (table, _) = table.split_once("\n## ").expect("its end");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let mut told = BTreeSet::new();
    let mut last = String::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
        let word = cells[0].trim_matches('`').to_string();
        assert!(last < word, "{word} stands behind {last}");
        last.clone_from(&word);
        told.insert(word);
    }
    assert_eq!(told, detail_words(), "left: docs/caching.md, right: src/policy/reason.rs");
    let readme = read(&root().join("README.md"));
    let count = format!("{} words", told.len());
    assert!(readme.contains(&count), "README.md does not say that there are {count}");
}

/// Who comes from another program finds it, and what users of nginx ask for in threads of their own.
#[test]
fn who_comes_from_another_program_finds_it() {
    let text = read(&root().join("docs/coming-from.md"));
    let headings = anchors(&text);
    for program in ["nginx", "json-caching-proxy", "vcr", "hoverfly"] {
        assert!(headings.contains(&format!("from-{program}")), "{program}: {headings:?}");
    }
    let (_, table) = text.split_once("## What nginx cannot").expect("the table");
    let (table, _) = table.split_once("\n## ").expect("its end");
    for thread in ["928", "1000", "1186", "1197", "1327"] {
        let is_named = ["issues", "pull"].iter().any(|kind| {
            table.contains(&format!("[{thread}](https://github.com/nginx/nginx/{kind}/{thread})"))
        });
        assert!(is_named, "{thread} is not named");
    }
}

/// Flags in a piece of a document or a help text.
fn flags(text: &str) -> BTreeSet<String> {
    let is_flag = |letter: char| letter.is_ascii_lowercase() || letter == '-';
    let pieces = text.split(|letter: char| !is_flag(letter) && !letter.is_ascii_alphanumeric());
    let flags = pieces.filter(|piece| piece.starts_with("--") && piece.len() > 2);
    flags.map(|flag| flag.trim_end_matches('-').to_string()).collect()
}

/// The command lines of `proxy` in a document, and what stands in backticks and begins as a flag.
fn told_flags(text: &str) -> BTreeSet<String> {
    let (prose, code) = prose_and_code(text);
    let code = code.join("\n").replace("\\\n", " ");
    let without_comment = |line: &str| line.split(" #").next().unwrap_or_default().to_string();
    let commands = code.lines().map(|line| line.trim_start_matches("$ ")).filter_map(|line| {
        let starts =
            line.starts_with("proxy ") || line.starts_with("ExecStart=/usr/local/bin/proxy ");
        starts.then(|| without_comment(line))
    });
    let prose = prose.join("\n");
    let spans = prose.split('`').skip(1).step_by(2);
    let spans = spans.filter(|span| span.starts_with("--") || span.starts_with("proxy "));
    commands.chain(spans.map(str::to_string)).flat_map(|piece| flags(&piece)).collect()
}

/// The flags of the program and of its commands.
fn known_flags() -> BTreeSet<String> {
    let help = |args: &[&str]| String::from_utf8(run(args).stdout).expect("text");
    let mut known = flags(&help(&["--help"]));
    for command in COMMANDS {
        known.extend(flags(&help(&["help", command])));
    }
    assert!(known.len() > 50, "the help was not read: {known:?}");
    known
}

/// Who reads `docs/choosing.md` for a need comes across each flag there is.
#[test]
fn every_flag_is_for_a_need() {
    let told = told_flags(&read(&root().join("docs/choosing.md")));
    let mut known = known_flags();
    // The help says that `--flag VALUE` and `--flag=VALUE` are the same.
    known.remove("--flag");
    let missing: Vec<_> = known.difference(&told).cloned().collect();
    assert!(missing.is_empty(), "docs/choosing.md does not name {missing:?}");
}

#[test]
fn flags_in_documents_exist() {
    let known = known_flags();
    for (name, text) in documents() {
        let unknown: Vec<_> = told_flags(&text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{}: no such flags: {unknown:?}", name.display());
    }
}
