//! Connections that are authenticated as a whole, as NTLM does it: each belongs to one client. RFC 4559 §6, RFC 9110
//! §7.4.
//!
//! Over event loops alone: ureq cannot tie a connection to a client, so that there each such request has a fresh one.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::next_hop::origin;
use super::support::proxy::Proxy;
use super::support::wire::read_head;

/// A handshake of NTLM: the challenge names the connection, and the credentials that answer it are good on that one
/// alone. From then on all that comes over it is its user's, and looks as if anybody might have it.
fn serve_handshakes(mut stream: TcpStream) {
    static NUMBERS: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let mut user = None;
    while let Some(head) = read_head(&mut stream) {
        let credentials = head.field("authorization");
        let challenge = match credentials.strip_prefix("NTLM ").map(|it| it.split_once(':')) {
            Some(None) => format!("NTLM {number}"),
            Some(Some((name, answered))) if answered == number.to_string() => {
                user = Some(name.to_string());
                String::new()
            }
            _ => "NTLM".to_string(),
        };
        let answer = match user.as_ref().filter(|_| credentials != "NTLM hello") {
            Some(user) => format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n{user}",
                user.len()
            ),
            None => format!(
                "HTTP/1.1 401 No\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n"
            ),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Clients with a handshake of their own.
const CLIENTS: usize = 8;

/// RFC 4559 §6: a client's handshake goes over one connection, which is this client's until it leaves; what comes over
/// it is nobody else's, whatever it says of itself.
#[test]
fn clients_keep_the_connections_that_they_have_authenticated() {
    let url = format!("http://{}", origin(serve_handshakes));
    let proxy = Proxy::start(&["--origin", &url]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| (proxy.connect(), number, 0)).collect();
    let mut challenges = vec![String::new(); CLIENTS];
    // Interleaved by a seed, so that handshakes of several are under way at once.
    let mut seed = 7_u64;
    while clients.iter().any(|(_, _, step)| *step < 6) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (connection, number, step) = &mut clients[(seed >> 33) as usize % CLIENTS];
        let fields = match step {
            1 => "Authorization: NTLM hello\r\n".to_string(),
            2 => format!("Authorization: NTLM user{number}:{}\r\n", challenges[*number]),
            _ => String::new(),
        };
        let reply = connection.request("GET", "/mail", &fields, "").reply();
        match step {
            0 => assert_eq!(reply.status, 401, "nothing of another's is given to {number}"),
            1 => {
                challenges[*number] = reply.field("www-authenticate").replace("NTLM ", "");
                assert_eq!(reply.status, 401);
            }
            _ => {
                let expected = (200, format!("user{number}"));
                assert_eq!((reply.status, reply.body()), expected, "step {step} of {number}");
                assert!(reply.cache_status().ends_with("detail=bound"), "{}", reply.cache_status());
            }
        }
        *step += 1;
    }
    assert_eq!(proxy.get("/mail").status, 401, "nothing of it is stored");
    drop(clients);
    assert_eq!(proxy.get("/mail").status, 401, "and no connection is left to a stranger");
}
