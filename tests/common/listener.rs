//! A server of the tests' own: what somebody asks it, byte for byte.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
};

/// The next request's body, and where its answer goes.
pub fn take(listener: &TcpListener) -> (Vec<u8>, TcpStream) {
    let (mut stream, mut length, mut line) = (BufReader::new(listener.accept().unwrap().0), 0, String::new());
    while stream.read_line(&mut line).unwrap() > 2 {
        length = line.to_lowercase().trim().strip_prefix("content-length: ").map_or(length, |n| n.parse().unwrap());
        line.clear();
    }
    let mut asked = vec![0; length];
    stream.read_exact(&mut asked).unwrap();
    (asked, stream.into_inner())
}
