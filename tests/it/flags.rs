//! The texts about flags: `docs/flags.md` is what the table of flags gives, and the binary prints its help.

use std::path::Path;

use caching_proxy::cli::help;

use super::support::proxy::run;

/// `UPDATE=1 cargo test --test it flags::` writes the file anew.
#[cfg(all(feature = "redis", feature = "sqlite", feature = "zstd"))]
#[test]
fn the_reference_of_flags_is_that_of_the_table() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/flags.md");
    let expected = help::reference();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().expect("docs")).expect("a folder");
        std::fs::write(&file, &expected).expect("docs/flags.md");
    }
    let seen = std::fs::read_to_string(&file).unwrap_or_default();
    for (number, (seen, expected)) in seen.lines().zip(expected.lines()).enumerate() {
        let line = number + 1;
        assert_eq!(seen, expected, "docs/flags.md:{line}; UPDATE=1 cargo test --test it flags::");
    }
    assert!(
        seen == expected,
        "docs/flags.md is too short or too long; UPDATE=1 cargo test --test it flags::"
    );
}

#[test]
fn help_is_printed_for_flags_and_for_commands() {
    for (args, beginning) in [
        (&["-h"][..], "proxy: an HTTP caching reverse proxy\n"),
        (&["--help"], "proxy: an HTTP caching reverse proxy\n"),
        (&["help", "purge"], "Usage: proxy purge URL | "),
        (&["purge", "--help"], "Usage: proxy purge URL | "),
        (&["warm", "-h"], "Usage: proxy warm FILE|- "),
    ] {
        let output = run(args);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with(beginning), "{args:?}: {text}");
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{args:?}");
    }
}
