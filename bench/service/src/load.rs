//! The load generator: a process of its own, with a thread for each connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tenantry::UserId;

const CONNECTIONS: usize = 8;

/// Runs the load generator for so long, and returns the requests a second.
pub fn start(address: SocketAddr, ids: &[UserId], seconds: u64) -> f64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["load", &address.to_string(), &seconds.to_string()])
        .args(ids.iter().map(ToString::to_string));
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// What that process does.
pub fn run(arguments: &[String]) {
    let [address, seconds, ids @ ..] = arguments else { panic!("load ADDRESS SECONDS ID…") };
    let address: SocketAddr = address.parse().unwrap();
    let duration = Duration::from_secs(seconds.parse().unwrap());
    let served: u64 = std::thread::scope(|scope| {
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                scope.spawn(move || request_until(address, &ids[connection..], duration))
            })
            .collect();
        connections.into_iter().map(|connection| connection.join().unwrap()).sum()
    });
    println!("{}", served as f64 / duration.as_secs_f64());
}

fn request_until(address: SocketAddr, ids: &[String], duration: Duration) -> u64 {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut requests = stream.try_clone().unwrap();
    let mut responses = BufReader::new(stream);
    let (mut line, mut body) = (String::new(), Vec::new());
    let start = Instant::now();
    let mut served = 0;
    for id in ids.iter().cycle() {
        if start.elapsed() >= duration {
            break;
        }
        write!(requests, "GET /users/{id} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        line.clear();
        responses.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        let mut length = 0;
        loop {
            line.clear();
            responses.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        body.resize(length, 0);
        responses.read_exact(&mut body).unwrap();
        served += 1;
    }
    served
}
