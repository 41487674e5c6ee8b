//! `proxy top`: a page that is redrawn in a terminal, and lines elsewhere; progress of commands that take long.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use super::support::origin::{Origin, on};
use super::support::proxy::{Proxy, command};
use super::support::terminal::in_terminal;
use super::support::wire::read_head;
use super::support::{PATIENCE, TemporaryFolder, pause};

/// What shows the terminal as it was before, at the end.
const RESTORED: &str = "\x1b[?25h\x1b[?1049l";

/// A proxy that has answered a miss and two hits, and the folder of its control socket.
fn started() -> (TemporaryFolder, Origin, Proxy) {
    let folder = TemporaryFolder::new();
    let origin = Origin::script([on("GET /a").send(200, "Cache-Control: max-age=600", "12345")]);
    let mut command = command();
    command.env("XDG_RUNTIME_DIR", folder.path()).args(["--origin", &origin.url()]);
    let proxy = Proxy::start_as(command);
    for _ in 0..3 {
        assert_eq!(proxy.get("/a").body(), "12345");
    }
    (folder, origin, proxy)
}

fn in_pipe(folder: &TemporaryFolder, args: &[&str]) -> Command {
    let mut command = command();
    command.env("XDG_RUNTIME_DIR", folder.path()).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        assert!(Instant::now() < deadline, "it does not end");
        pause();
    }
}

#[test]
fn each_second_is_a_line_where_there_is_no_terminal() {
    let (folder, _origin, _proxy) = started();
    let output = in_pipe(&folder, &["top", "--count", "1"]).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("requests=0 hits=0 misses=0 bytes=0 "), "{text}");
    assert!(text.contains(" stored=1 requests_since_start=3 hits_since_start=2"), "{text}");
    // What was before it began is of the last minute, too.
    for span in ["minute", "hour"] {
        let counted =
            format!(" {span}_requests=3 {span}_hits=2 {span}_saved=2 {span}_hit_p50_seconds=");
        assert!(text.contains(&counted), "{counted}: {text}");
        assert!(!text.contains(&format!("{span}_miss_p99_seconds=-")), "{text}");
    }
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn a_reader_that_goes_away_and_a_proxy_that_ends_end_it() {
    let (folder, _origin, mut proxy) = started();
    let start = || {
        let mut child = in_pipe(&folder, &["top"]).spawn().expect("it runs");
        let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        assert!(line.starts_with("requests="), "{line}");
        (child, reader)
    };
    let (mut child, reader) = start();
    drop(reader);
    assert_eq!(wait(&mut child), Some(0));
    let (mut child, _reader) = start();
    proxy.stop();
    assert_eq!(wait(&mut child), Some(1));
    let mut told = String::new();
    BufReader::new(child.stderr.take().expect("a pipe")).read_line(&mut told).expect("a line");
    let begins = format!("proxy: the proxy on port {}: ", proxy.address.port());
    assert!(told.starts_with(&begins), "{told}");
    assert!(told.ends_with("; it has ended, or does not answer\n"), "{told}");
    // Nothing runs any more.
    let output = in_pipe(&folder, &["top"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), &*told),
        (Some(1), "proxy: no proxy of yours runs; start one\n")
    );
}

/// The counters of the process that takes over begin at zero, and are not taken for fewer than before.
#[test]
fn the_process_that_takes_over_is_watched_on() {
    let (folder, origin, mut old) = started();
    let mut child = in_pipe(&folder, &["top"]).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("it goes on").expect("text");
    assert!(next().contains(" requests_since_start=3 "));
    let mut command = command();
    command.env("XDG_RUNTIME_DIR", folder.path());
    command.args(["--origin", &origin.url(), "--take-over"]);
    let _new = Proxy::start_on(command, old.address.port());
    assert!(old.wait().0.success());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let line = next();
        assert!(line.starts_with("requests=0 hits=0 "), "{line}");
        if line.contains(" requests_since_start=0 ") {
            break;
        }
        assert!(Instant::now() < deadline, "{line}");
    }
    child.kill().expect("a child");
    child.wait().expect("a child");
}

/// The lines of each drawing, without their sequences.
fn drawings(shown: &str) -> Vec<Vec<String>> {
    let plain = |line: &str| {
        let parts = line.split('\x1b');
        let after = |part: &str| {
            let end = part.find(|letter: char| letter.is_ascii_alphabetic()).map_or(0, |at| at + 1);
            part[end..].to_string()
        };
        parts
            .enumerate()
            .map(|(at, part)| if at == 0 { part.into() } else { after(part) })
            .collect()
    };
    let drawn =
        shown.split("\x1b[H").skip(1).map(|part| part.split("\x1b[J").next().unwrap_or(part));
    drawn
        .map(|part| part.lines().map(|line| plain(line.trim_end_matches('\r'))).collect())
        .collect()
}

#[test]
fn the_page_is_redrawn_within_the_terminal() {
    let (folder, _origin, _proxy) = started();
    for (size, settings, is_plain) in
        [((100, 50), &[][..], false), ((20, 8), &[("NO_COLOR", "1")], true)]
    {
        let Some(running) = in_terminal(folder.path(), size, "top --count 1", settings) else {
            return;
        };
        let (status, shown) = running.finish();
        assert_eq!(status.code(), Some(0), "{shown:?}");
        assert!(
            shown.starts_with("\x1b[?1049h\x1b[?25l") && shown.ends_with(RESTORED),
            "{shown:?}"
        );
        assert_eq!(shown.contains("\x1b[1m"), !is_plain, "{shown:?}");
        let drawings = drawings(&shown);
        assert_eq!(drawings.len(), 2, "{shown:?}");
        for lines in drawings {
            assert!(lines.len() <= size.1.into(), "{lines:?}");
            assert!(lines.iter().all(|line| line.chars().count() <= size.0.into()), "{lines:?}");
            let text = lines.join("\n");
            // Of the spans, those that there are columns for: all four, or the last second.
            let requests = lines.iter().find(|line| line.starts_with("reques")).expect("a line");
            let last = requests.split_whitespace().last().expect("a word");
            let expected: &[&str] = if size.0 == 100 { &["3"] } else { &["-", "0"] };
            assert!(expected.contains(&last), "{text}");
            let has_requests = lines.iter().filter(|line| line.ends_with("  GET /a")).count();
            assert_eq!(has_requests, if size.1 == 50 { 3 } else { 0 }, "{text}");
            assert!(!text.contains("older version"), "{text}");
        }
    }
}

#[test]
fn a_terminal_that_gets_another_size_is_drawn_anew() {
    let (folder, _origin, _proxy) = started();
    let Some(mut running) = in_terminal(folder.path(), (100, 50), "top", &[]) else { return };
    running.wait_for("since start");
    let terminal = format!("/proc/{}/fd/1", running.pid());
    let terminal = std::fs::read_link(terminal).expect("a terminal");
    let mut stty = Command::new("stty");
    stty.arg("-F").arg(terminal).args(["cols", "50", "rows", "9"]);
    assert!(stty.status().expect("stty").success());
    // Both addresses have space in the first one alone.
    running.wait_for("…\x1b[0m");
    running.press("q");
    let (_, shown) = running.finish();
    let last = drawings(&shown).pop().expect("a drawing");
    assert!(last.len() == 9 && last.iter().all(|line| line.chars().count() <= 50), "{last:?}");
}

#[test]
fn each_of_several_that_watch_sees_all_requests() {
    let (folder, origin, proxy) = started();
    let start = || in_terminal(folder.path(), (100, 50), "top", &[]);
    let (Some(mut one), Some(mut other)) = (start(), start()) else { return };
    for running in [&mut one, &mut other] {
        running.wait_for("  GET /a");
    }
    let targets = ["/1", "/2", "/3", "/4"];
    for target in targets {
        origin.add(on(&format!("GET {target}")).send(200, "", "1"));
        assert_eq!(proxy.get(target).status, 200);
    }
    for mut running in [one, other] {
        for target in targets {
            running.wait_for(&format!("  GET {target}"));
        }
        running.press("q");
        let (_, shown) = running.finish();
        let last = drawings(&shown).pop().expect("a drawing").join("\n");
        let once = targets.iter().all(|target| last.matches(&format!("GET {target}")).count() == 1);
        assert!(once && last.matches("GET /a").count() == 3, "{last}");
    }
}

/// A proxy that tells counters alone, as one of 0.2.0 does, is watched all the same.
#[test]
fn an_older_proxy_is_watched_from_now_on() {
    let folder = TemporaryFolder::new();
    let sockets = folder.file("caching-proxy");
    std::fs::create_dir(&sockets).expect("a folder");
    std::fs::set_permissions(&sockets, Permissions::from_mode(0o700)).expect("a folder");
    let listener = UnixListener::bind(sockets.join("1234.sock")).expect("a socket");
    // The thread ends with the process of the tests.
    thread::spawn(move || {
        for requests in 0.. {
            let Ok((mut stream, _)) = listener.accept() else { return };
            // One that only looks whether somebody answers sends nothing.
            let Some(head) = read_head(&mut stream) else { continue };
            let (status, content) = match head.word(1) {
                "/stats" => ("200 OK", format!("{{\"since\":1,\"requests\":{requests}}}")),
                target => ("404 Not Found", format!("{target}: not known")),
            };
            let length = content.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all((head + &content).as_bytes());
        }
    });
    let Some(running) = in_terminal(folder.path(), (100, 50), "top --count 1", &[]) else { return };
    let (status, shown) = running.finish();
    assert_eq!(status.code(), Some(0), "{shown:?}");
    let text = drawings(&shown).last().expect("a drawing").join("\n");
    for part in ["minute and hour begin with this command", "does not tell them", "last 1 s"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = in_pipe(&folder, &["top", "--count", "1"]).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("requests=") && text.contains(" minute_hit_p50_seconds=- "), "{text}");
}

#[test]
fn the_terminal_is_restored_however_it_ends() {
    let (folder, _origin, mut proxy) = started();
    let start = || in_terminal(folder.path(), (80, 24), "top", &[]);
    // More keys than events may wait: none is lost, the last one included.
    let many = "x".repeat(1000) + "q";
    for key in ["q", "\x03", &many] {
        let Some(mut running) = start() else { return };
        running.wait_for("since start");
        running.press(key);
        let (status, shown) = running.finish();
        assert_eq!(status.code(), Some(0), "{key:?}: {shown:?}");
        assert!(shown.ends_with(RESTORED), "{key:?}: {shown:?}");
    }
    for signal in ["-TERM", "-INT"] {
        let mut running = start().expect("script is there");
        running.wait_for("since start");
        let pid = running.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
        let (status, shown) = running.finish();
        assert_eq!(status.code(), Some(0), "{signal}: {shown:?}");
        assert!(shown.ends_with(RESTORED), "{signal}: {shown:?}");
    }
    let mut running = start().expect("script is there");
    running.wait_for("since start");
    proxy.stop();
    let (status, shown) = running.finish();
    assert_eq!(status.code(), Some(1), "{shown:?}");
    let (_, after) = shown.split_once(RESTORED).expect("it is restored");
    assert!(after.contains("it has ended, or does not answer"), "the message stays: {shown:?}");
}

/// A terminal that knows no sequences.
#[test]
fn a_dumb_terminal_gets_lines() {
    let (folder, _origin, _proxy) = started();
    let settings = [("TERM", "dumb")];
    let Some(running) = in_terminal(folder.path(), (80, 24), "top --count 1", &settings) else {
        return;
    };
    let (status, shown) = running.finish();
    assert_eq!(status.code(), Some(0), "{shown:?}");
    assert!(shown.starts_with("requests=") && !shown.contains('\x1b'), "{shown:?}");
}

#[test]
fn commands_that_take_long_show_progress_in_a_terminal_only() {
    let (folder, _origin, _proxy) = started();
    let list = folder.file("urls");
    std::fs::write(&list, "/a\n").expect("a file");
    let archive = folder.file("a.har");
    let (list, archive) = (list.to_str().expect("text"), archive.to_str().expect("text"));
    let cases = [
        (["warm", list], "] 0/1  ", "1 URLs: 0 fetched"),
        (["export", archive], "] 0/1  ", ": 1 responses"),
        (["import", archive], "KiB/s  1 responses", ": 1 of 1 responses stored"),
    ];
    for (args, progress, result) in cases {
        let output = in_pipe(&folder, &args).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success() && text.contains(result), "{args:?}: {text}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        // Standard output in a file, as in `proxy export - >a.har`: nothing of it gets there.
        let file = folder.file("out");
        let line = format!("{} '{}' >'{}'", args[0], args[1], file.display());
        let Some(running) = in_terminal(folder.path(), (80, 24), &line, &[]) else { return };
        let (status, shown) = running.finish();
        assert_eq!(status.code(), Some(0), "{args:?}: {shown:?}");
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), text, "{args:?}");
        assert!(shown.contains(progress), "{args:?}: {shown:?}");
        assert!(shown.ends_with("\r\x1b[K"), "the line is gone at the end: {shown:?}");
    }
    // A recording that is written into the terminal itself is not interrupted.
    let Some(running) = in_terminal(folder.path(), (80, 24), "export -", &[]) else { return };
    let (status, shown) = running.finish();
    assert!(status.success() && shown.starts_with('{') && !shown.contains('\x1b'), "{shown:?}");
}
