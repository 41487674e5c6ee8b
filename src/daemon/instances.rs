//! The proxies that run on this machine for this user: where their sockets are, and how they are asked.
//!
//! Each has sockets in a folder that no other user can enter, named by its port. A name alone says
//! nothing: a process that was killed leaves it behind, so a socket counts only if somebody answers at
//! it.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For how long a proxy may take to answer: a purge of a large store takes a while.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// How many proxies of one user may listen on one port, on different addresses.
const SAME_PORT_MAX: usize = 16;

/// What a socket in the folder is for.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// The control interface.
    Control,
    /// Handing over the listening socket.
    Handover,
}

impl Purpose {
    fn ending(self) -> &'static str {
        match self {
            Self::Control => "sock",
            Self::Handover => "handover",
        }
    }
}

/// A socket in the folder; its name is removed when it is dropped.
pub struct OwnSocket {
    path: PathBuf,
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The folder of the control sockets: `$XDG_RUNTIME_DIR/caching-proxy`, else a folder of the user's own
/// below the temporary one.
fn folder() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(base) = set("XDG_RUNTIME_DIR").filter(|path| path.is_absolute() && path.is_dir()) {
        return base.join("caching-proxy");
    }
    // The owner of our own process: the environment could say anything, and the standard library has no
    // getuid.
    let user = fs::metadata("/proc/self").map_or(0, |found| found.uid());
    env::temp_dir().join(format!("caching-proxy-{user}"))
}

/// The folder, made if need be. The error is that it is not this user's alone.
fn own_folder() -> Result<PathBuf, String> {
    let folder = folder();
    let told = |error: io::Error| format!("{}: {error}", folder.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(told)?;
    // Below the temporary folder anybody can have made it first, or a link in its place: whoever owns
    // it could read what is asked, or answer instead of the proxy.
    let found = fs::symlink_metadata(&folder).map_err(told)?;
    let user = fs::metadata("/proc/self").map_or(found.uid(), |own| own.uid());
    if !found.is_dir() || found.uid() != user || found.permissions().mode() & 0o077 != 0 {
        return Err(format!("{}: not a folder of this user alone", folder.display()));
    }
    Ok(folder)
}

/// The name of a socket: `8080.sock`, `8080-2.handover`.
fn name(port: u16, number: usize, purpose: Purpose) -> String {
    let number = if number == 1 { String::new() } else { format!("-{number}") };
    format!("{port}{number}.{}", purpose.ending())
}

/// Connects to the proxy on `port` that offers its listening sockets; `None` if there is none.
pub fn handover(port: u16) -> Option<UnixStream> {
    let folder = own_folder().ok()?;
    let names = (1..=SAME_PORT_MAX).map(|number| name(port, number, Purpose::Handover));
    names.map(|name| UnixStream::connect(folder.join(name))).find_map(Result::ok)
}

/// Opens a socket of the proxy on `port`, under the first name that no other proxy answers at.
pub fn listen(port: u16, purpose: Purpose) -> Result<(UnixListener, OwnSocket), String> {
    let folder = own_folder()?;
    for number in 1..=SAME_PORT_MAX {
        // A proxy that is being taken over has the first name still; its successor takes the next one.
        let path = folder.join(name(port, number, purpose));
        if UnixStream::connect(&path).is_ok() {
            continue;
        }
        // Nobody answers: the process that made it was killed, and bind does not take a name that is there.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)
            .and_then(|listener| {
                // The folder keeps others out; this is for systems that share it all the same.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map(|()| listener)
            })
            .map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok((listener, OwnSocket { path }));
    }
    Err(format!("{}: too many proxies on port {port}", folder.display()))
}

/// A running proxy of this user, reached by its control socket.
pub struct Instance {
    /// The port that it listens on.
    pub port: u16,
    path: PathBuf,
}

/// The proxies that run, or those on one port, in the order of their ports. Sockets at which nobody
/// answers are removed.
pub fn running(port: Option<u16>) -> Vec<Instance> {
    let Ok(folder) = own_folder() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    let mut found: Vec<Instance> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let own = name.strip_suffix(".sock")?.split('-').next()?.parse().ok()?;
            let instance = Instance { port: own, path: entry.path() };
            (port.is_none_or(|port| port == own) && instance.is_alive()).then_some(instance)
        })
        .collect();
    found.sort_by_key(|instance| instance.port);
    found
}

impl Instance {
    /// Does somebody answer? The name of a socket whose process is gone is removed on the way.
    fn is_alive(&self) -> bool {
        match UnixStream::connect(&self.path) {
            Ok(_) => true,
            // Refused means that nobody listens. Any other error may pass, and is no reason to take a
            // running proxy's name away.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(&self.path);
                false
            }
            Err(_) => false,
        }
    }

    /// Asks the proxy and gives the content of its answer; any status but 200 is an error.
    pub fn ask(&self, method: &str, path: &str, query: &[(&str, &str)]) -> Result<String, String> {
        self.success(exchange(&self.path, method, &with_query(path, query), b""))
    }

    /// The same with POST and content.
    pub fn send(&self, path: &str, content: &[u8]) -> Result<String, String> {
        self.success(exchange(&self.path, "POST", path, content))
    }

    /// The content of a 200; the error names the proxy, because there may be several.
    fn success(&self, answer: io::Result<(u16, String)>) -> Result<String, String> {
        let (status, content) =
            answer.map_err(|error| format!("the proxy on port {}: {error}", self.port))?;
        if status == 200 { Ok(content) } else { Err(content.trim_end().to_string()) }
    }
}

/// A path with these parameters, encoded.
pub fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    if query.is_empty() { path.to_string() } else { format!("{path}?{query}") }
}

/// Sends one request over a Unix socket; gives the status and the content.
fn exchange(path: &Path, method: &str, target: &str, content: &[u8]) -> io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let length = content.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    // What is not taken has an answer all the same, which says why.
    let sent = stream.write_all(content);
    // The answer is this user's own proxy's, on this machine: it is as large as what was asked for, and
    // unbounded.
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        return Err(sent.err().unwrap_or(error));
    }
    let mut lines = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut lines);
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "an answer that is no HTTP");
    match head.parse(&answer) {
        Ok(httparse::Status::Complete(at)) => {
            let status = head.code.ok_or_else(unreadable)?;
            let length =
                head.headers.iter().find(|line| line.name.eq_ignore_ascii_case("content-length"));
            let length = length.and_then(|line| std::str::from_utf8(line.value).ok()?.parse().ok());
            // A proxy that was killed meanwhile has sent a part: half a list must not look like a short
            // one.
            if length != Some(answer.len() - at) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok((status, String::from_utf8_lossy(&answer[at..]).into_owned()))
        }
        _ => Err(unreadable()),
    }
}
