//! The event front.
