//! The integration tests: one binary, so that what they all need is linked once; a module a subject.
#![cfg_attr(
    not(all(feature = "redis", feature = "sqlite", feature = "tls", feature = "zstd")),
    allow(dead_code, unused_imports, reason = "what the tests of a feature that was left out use")
)]

mod support;

#[cfg(all(feature = "redis", feature = "sqlite"))]
mod agreement;
#[cfg(feature = "sqlite")]
mod arriving;
mod both_drivers;
mod bound_connections;
#[cfg(feature = "sqlite")]
mod by_hand;
mod caching;
#[cfg(feature = "tls")]
mod certificates;
mod chromium;
mod clients;
mod collapsed;
mod command_line;
mod completions;
mod control;
mod control_page;
mod control_socket;
mod credentials;
mod destinations;
mod directives;
#[cfg(feature = "sqlite")]
mod disk_readers;
#[cfg(all(feature = "redis", feature = "sqlite"))]
mod displaced;
mod documents;
mod early_ends;
mod ending;
mod engine;
mod event_front;
mod eviction;
mod explain;
#[cfg(all(feature = "redis", feature = "sqlite"))]
mod faults;
mod flags;
mod forwarded;
mod forwarding;
mod framing;
mod front;
mod fuzzing;
mod gate;
mod har;
mod hostile;
#[cfg(feature = "sqlite")]
mod interleaved;
mod invalidated;
mod isolation;
mod kept_connections;
mod keys;
mod manual;
mod modes;
mod names;
mod next_hop;
mod odd_origins;
mod offline;
#[cfg(all(feature = "redis", feature = "sqlite"))]
mod origin_credentials;
mod origin_trouble;
mod over_tiny_http;
mod packages;
mod packages_built;
mod packages_service;
#[cfg(all(feature = "sqlite", feature = "zstd"))]
mod packed;
mod parts;
mod piped;
mod properties;
mod ranges;
mod recalled;
#[cfg(all(feature = "redis", feature = "sqlite", feature = "tls"))]
mod recipes;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_errors;
#[cfg(feature = "redis")]
mod redis_lists;
#[cfg(feature = "redis")]
mod redis_places;
#[cfg(feature = "redis")]
mod redis_state;
#[cfg(all(feature = "redis", feature = "tls"))]
mod redis_tls;
mod replayed;
mod rfc9110;
mod rfc9111;
mod rfc9213;
#[cfg(all(feature = "redis", feature = "sqlite"))]
mod secrets;
mod spelling;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod sqlite_invalidations;
#[cfg(feature = "sqlite")]
mod sqlite_reuse;
#[cfg(feature = "sqlite")]
mod sqlite_rows;
#[cfg(feature = "sqlite")]
mod sqlite_trouble;
#[cfg(all(feature = "redis", feature = "sqlite", feature = "tls"))]
mod static_binary;
mod steps;
#[cfg(all(feature = "redis", feature = "sqlite"))]
mod stores;
mod takeover;
mod top;
mod trailers;
mod trial;
#[cfg(all(feature = "redis", feature = "sqlite"))]
mod troubleshooting;
mod turns;
#[cfg(feature = "sqlite")]
mod underway;
mod upgrade;
mod validation;
mod variants;
mod visible;
#[cfg(feature = "sqlite")]
mod warm_start;
mod ways_out;
#[cfg(not(feature = "tls"))]
mod without_tls;
