//! One connection to Redis: never used again after an error, and never waited for beyond a bound.

use std::time::Duration;

use redis::cluster::ClusterConnection;
use redis::{Client, Cmd, Connection, ConnectionLike, Pipeline, RedisError, RedisResult, Value};

use crate::store::backing::BackingError;

/// One connection.
pub(super) enum Link {
    Server(Box<Connection>),
    Cluster(Box<ClusterConnection>),
}

impl Link {
    /// Sends commands and gives their answers, in their order. An answer that is an error (a replica that
    /// takes no writes, a user without rights, no memory) is an error here, too: no caller can take it
    /// for success.
    pub(super) fn ask(&mut self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        match self {
            Self::Server(connection) => {
                // One round trip; each answer is looked at on its own by `query`.
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                pipeline.query(&mut **connection)
            }
            // Their keys may live on several nodes.
            Self::Cluster(connection) => {
                let mut ask = |command| connection.req_command(command)?.extract_error();
                commands.iter().map(&mut ask).collect()
            }
        }
    }

    /// The same for one command. (`req_command` alone gives an error of the server as a value.)
    pub(super) fn one(&mut self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::Server(connection) => connection.req_command(command),
            Self::Cluster(connection) => connection.req_command(command),
        };
        // READONLY, NOPERM, OOM and others were once read as 0 or nothing here, so that writes and purges were
        // lost, and said to be done.
        answer?.extract_error()
    }
}

/// The error of the client library as the store's own; it names the flags that may help.
pub(super) fn backing_error(error: &RedisError) -> BackingError {
    let text = error.to_string();
    let is_distrust = text.contains("invalid peer certificate");
    BackingError(if is_distrust { format!("{text}; see --ca-cert, --insecure") } else { text })
}

/// Is this the answer of a replica to a command that writes?
pub(super) fn is_read_only(error: &RedisError) -> bool {
    let text = error.to_string();
    text.contains("READONLY") || text.contains("read only replica")
}

/// Connects. (Only to connect to a socket of this machine has no bound: it waits where a server that hangs has
/// not accepted some hundred others. The thread that listens for news then waits alone, and Redis is not used.)
pub(super) fn open(client: &Client, answer_max: Duration) -> RedisResult<Connection> {
    let connection = client.get_connection_with_timeout(answer_max)?;
    connection.set_read_timeout(Some(answer_max))?;
    connection.set_write_timeout(Some(answer_max))?;
    Ok(connection)
}
