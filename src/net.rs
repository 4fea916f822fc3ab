//! Sockets: listening, TLS, serving HTTP/1.1 and HTTP/2, and draining.

mod h2_stall;
mod idle;
pub mod listener;
mod stall_timeout;
pub mod tls;

pub use idle::{InUse, Timeouts};
pub use listener::{Serving, bind, converse, serve};
pub use tls::{Tls, TlsError};
