//! A scripted origin server: it answers what the script says, byte for byte, and remembers what it
//! was asked.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::wire::{Head, read_head};
use super::{PATIENCE, field_lines};

/// Something that a rule waits for, and a test opens.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn open(&self) {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open.
    pub fn pass(&self) {
        let open = self.0.0.lock().expect("no panic");
        let (open, waited) =
            self.0.1.wait_timeout_while(open, PATIENCE, |open| !*open).expect("no panic");
        drop(open);
        // Else the answer would go on, and hide that somebody hung until then.
        assert!(!waited.timed_out(), "a gate was not opened in time");
    }
}

/// One step of an answer.
#[derive(Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// The same bytes so many times.
    Repeat(Vec<u8>, usize),
    Wait(Gate),
    /// Read so many bytes.
    Read(usize),
    /// Send back what comes, in capitals, until it ends.
    Echo,
    /// End the connection.
    Close,
    /// End it with a reset.
    Reset,
}

/// What is answered to one request.
#[derive(Clone)]
pub struct Rule {
    method: String,
    target: String,
    having: Vec<(String, String)>,
    lacking: Vec<String>,
    steps: Vec<Step>,
    left: usize,
    reads_content: bool,
}

/// `on("GET /a")`: a rule for one request.
pub fn on(request: &str) -> Rule {
    let (method, target) = request.split_once(' ').expect("a method and a target");
    Rule {
        method: method.to_string(),
        target: target.to_string(),
        having: Vec::new(),
        lacking: Vec::new(),
        steps: Vec::new(),
        left: 1,
        reads_content: true,
    }
}

impl Rule {
    /// The request must have these fields.
    pub fn having(mut self, fields: &str) -> Self {
        self.having.extend(field_lines(fields));
        self
    }

    /// The request must not have this field.
    pub fn lacking(mut self, name: &str) -> Self {
        self.lacking.push(name.to_string());
        self
    }

    /// Holds for any number of requests.
    pub fn always(mut self) -> Self {
        self.left = usize::MAX;
        self
    }

    pub fn times(mut self, count: usize) -> Self {
        self.left = count;
        self
    }

    /// Answers before the content has been read.
    pub fn without_reading(mut self) -> Self {
        self.reads_content = false;
        self
    }

    /// Answers with a `Content-Length`, in one write: a second one would wait for the peer's delayed acknowledgement.
    pub fn send(self, status: u16, fields: &str, body: &str) -> Self {
        let fields = format!("{fields}; Content-Length: {}", body.len());
        self.bytes(&(head_text(status, fields.trim_start_matches("; ")) + body))
    }

    /// The head alone.
    pub fn head(self, status: u16, fields: &str) -> Self {
        self.bytes(&head_text(status, fields))
    }

    pub fn bytes(self, bytes: &str) -> Self {
        self.then(Step::Send(bytes.as_bytes().to_vec()))
    }

    pub fn wait(self, gate: &Gate) -> Self {
        self.then(Step::Wait(gate.clone()))
    }

    pub fn close(self) -> Self {
        self.then(Step::Close)
    }

    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    fn fits(&self, asked: &Asked) -> bool {
        self.left > 0
            && self.method == asked.head.word(0)
            && (self.target == "*any*" || self.target == asked.head.word(1))
            && self.having.iter().all(|(name, value)| asked.head.field(name) == *value)
            && self.lacking.iter().all(|name| asked.head.all(name).is_empty())
    }
}

fn head_text(status: u16, fields: &str) -> String {
    let mut head = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in field_lines(fields) {
        head.extend([name.as_str(), ": ", &value, "\r\n"]);
    }
    head + "\r\n"
}

/// A request that the origin server has read.
#[derive(Clone, Debug)]
pub struct Asked {
    pub head: Head,
    pub content: Vec<u8>,
    /// Did the content end as it should?
    pub complete: bool,
    /// Which connection it came over, counted from 0.
    pub connection: usize,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    asked: Vec<Asked>,
    unexpected: Vec<String>,
    connections: usize,
    /// Connections that are over.
    ended: usize,
    /// Handshakes of TLS that went on from an earlier one.
    resumed: usize,
}

/// A running origin server.
pub struct Origin {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// Is TLS on? Both, as far as the program has it.
pub const SCHEMES: &[bool] = if cfg!(feature = "tls") { &[false, true] } else { &[false] };

impl Origin {
    pub fn script(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self::start(rules, None)
    }

    /// The same over TLS; also its certificate, in PEM.
    pub fn script_tls(rules: impl IntoIterator<Item = Rule>) -> (Self, String) {
        let (config, pem) = self_signed();
        (Self::start(rules, Some(config)), pem)
    }

    /// The same with this certificate, the chain behind it, and a key that need not be the certificate's.
    pub fn script_tls_as(
        rules: impl IntoIterator<Item = Rule>,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Self {
        Self::start(rules, Some(server_config(chain, key)))
    }

    fn start(
        rules: impl IntoIterator<Item = Rule>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = State { rules: rules.into_iter().collect(), ..State::default() };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let (shared, config) = (Arc::clone(&state), tls.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, config) = (Arc::clone(&shared), config.clone());
                let connection = {
                    let mut state = shared.0.lock().expect("no panic");
                    state.connections += 1;
                    state.connections - 1
                };
                thread::spawn(move || serve(stream, config, &shared, connection));
            }
        });
        Self { address, state, tls }
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.0.lock().expect("no panic").asked.clone()
    }

    pub fn connections(&self) -> usize {
        self.state.0.lock().expect("no panic").connections
    }

    /// How many of the connections went on from an earlier handshake of TLS.
    pub fn resumed(&self) -> usize {
        self.state.0.lock().expect("no panic").resumed
    }

    /// Waits until so many connections are over.
    pub fn wait_for_ends(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.0.lock().expect("no panic");
        while state.ended < count {
            assert!(Instant::now() < deadline, "{} of {count} connections ended", state.ended);
            state = self.state.1.wait_timeout(state, PATIENCE).expect("no panic").0;
        }
    }

    /// Waits until so many requests have come.
    pub fn wait_for(&self, count: usize) -> Vec<Asked> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.0.lock().expect("no panic");
        while state.asked.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} requests came", state.asked.len());
            state = self.state.1.wait_timeout(state, PATIENCE).expect("no panic").0;
        }
        state.asked.clone()
    }

    pub fn add(&self, rule: Rule) {
        self.state.0.lock().expect("no panic").rules.push(rule);
    }

    /// Every rule was used, and nothing else was asked.
    pub fn assert_finished(&self) {
        let state = self.state.0.lock().expect("no panic");
        assert!(state.unexpected.is_empty(), "unexpected requests: {:#?}", state.unexpected);
        let unused: Vec<_> = state
            .rules
            .iter()
            .filter(|rule| rule.left > 0 && rule.left != usize::MAX)
            .map(|rule| format!("{} {}", rule.method, rule.target))
            .collect();
        assert!(unused.is_empty(), "rules that were not used: {unused:?}");
    }
}

/// What a TLS server needs, with a certificate for this host that has signed itself; and that, in PEM.
pub fn self_signed() -> (Arc<rustls::ServerConfig>, String) {
    let names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    (server_config(vec![made.cert.der().clone()], &key), made.cert.pem())
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Arc<rustls::ServerConfig> {
    let key = rustls::crypto::ring::sign::any_supported_type(key).expect("a key");
    let shown = rustls::sign::CertifiedKey::new(chain, key);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    Arc::new(config)
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    state: &(Mutex<State>, Condvar),
    connection: usize,
) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let socket = stream.try_clone().expect("a second handle");
    match tls {
        Some(config) => {
            let session = rustls::ServerConnection::new(config).expect("a session");
            let mut stream = rustls::StreamOwned::new(session, stream);
            // The client's part of the handshake comes first; what becomes of it shows when something is read.
            let _ = stream.conn.complete_io(&mut stream.sock);
            if stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                state.0.lock().expect("no panic").resumed += 1;
            }
            exchange_all(&mut stream, &socket, state, connection);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        None => exchange_all(&mut &stream, &socket, state, connection),
    }
    // A shutdown would send an orderly end before the reset.
    if socket2::SockRef::from(&socket).linger().is_ok_and(|linger| linger.is_none()) {
        let _ = socket.shutdown(Shutdown::Both);
    }
    state.0.lock().expect("no panic").ended += 1;
    state.1.notify_all();
}

fn exchange_all<S: Read + Write>(
    stream: &mut S,
    socket: &TcpStream,
    state: &(Mutex<State>, Condvar),
    connection: usize,
) {
    while let Some(head) = read_head(stream) {
        let mut asked = Asked { head, content: Vec::new(), complete: true, connection };
        let rule = {
            let mut state = state.0.lock().expect("no panic");
            let found = state.rules.iter_mut().find(|rule| rule.fits(&asked));
            let rule = found.map(|rule| {
                rule.left -= usize::from(rule.left != usize::MAX);
                rule.clone()
            });
            if rule.is_none() {
                state.unexpected.push(asked.head.text.clone());
            }
            rule
        };
        let rule = rule.unwrap_or_else(|| on("GET /").send(599, "", "unexpected"));
        if rule.reads_content {
            (asked.content, asked.complete) = asked.head.read_request_content(stream);
        }
        let complete = asked.complete;
        {
            let mut state = state.0.lock().expect("no panic");
            state.asked.push(asked);
        }
        state.1.notify_all();
        if !complete || !run(stream, socket, &rule.steps) {
            return;
        }
    }
}

/// Runs the steps; `false` if the connection is over.
fn run<S: Read + Write>(stream: &mut S, socket: &TcpStream, steps: &[Step]) -> bool {
    for step in steps {
        let sent = match step {
            Step::Send(bytes) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Step::Repeat(bytes, count) => {
                (0..*count).try_for_each(|_| stream.write_all(bytes)).and_then(|()| stream.flush())
            }
            Step::Wait(gate) => {
                gate.pass();
                Ok(())
            }
            Step::Read(count) => stream.read_exact(&mut vec![0; *count]),
            Step::Echo => {
                let mut piece = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    piece[..count].make_ascii_uppercase();
                    if stream.write_all(&piece[..count]).and_then(|()| stream.flush()).is_err() {
                        break;
                    }
                }
                return false;
            }
            Step::Close => return false,
            Step::Reset => {
                let _ = socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
                return false;
            }
        };
        if sent.is_err() {
            return false;
        }
    }
    true
}
