//! The oracle's upstream as a program, for tests of real clients: every answer ends well and is billed to
//! the token. It prints where it listens; `GET /bill` says what each request cost.

use std::net::TcpListener;

use oracle::upstream::{Endings, serve};
use oracle::world::{TextCount, World};

/// Tokens that a hosted call adds at the most: an agent of many turns has to fit a window.
const CALL_TOKENS_MAX: u64 = 1_000;

fn main() -> std::io::Result<()> {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut world = World::default();
    world.assumed.text = TextCount::Pieces;
    world.assumed.call_tokens_max = CALL_TOKENS_MAX;
    println!("oracle listening on http://{}", listener.local_addr()?);
    let _account = serve(listener, world, Endings::Reported, seed);
    loop {
        std::thread::park();
    }
}
