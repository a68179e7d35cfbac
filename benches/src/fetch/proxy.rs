//! A proxy that makes loopback behave like a network: a rate for each connection, a delay before
//! each request, and connections that break.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Moved at a time: a few milliseconds at the rates that are asked for.
const PIECE: usize = 64 << 10;
/// What a sleep that took too long may be made up for, so that the rate is kept on the whole.
const SLACK: Duration = Duration::from_millis(20);

/// How the network is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes per second that one connection gives to the client.
    pub(crate) rate: u64,
    /// The delay of what the client sends.
    pub(crate) latency: Duration,
    /// A connection breaks after so many bytes on average.
    pub(crate) cut_every: Option<u64>,
}

/// The proxy; it listens until the process ends.
pub(crate) struct Proxy {
    port: u16,
    cuts: Arc<AtomicU64>,
}

impl Proxy {
    /// Starts a proxy before `origin`, a port on loopback.
    pub(crate) fn start(origin: u16, shape: Shape) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let cuts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&cuts);
        thread::spawn(move || {
            for (number, client) in (1..).zip(listener.incoming().flatten()) {
                let cuts = Arc::clone(&counted);
                // A connection that fails ends by itself only.
                thread::spawn(move || drop(serve(&client, origin, (shape, number), &cuts)));
            }
        });
        Ok(Self { port, cuts })
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many connections were broken so far.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

fn serve(
    client: &TcpStream,
    origin: u16,
    (shape, number): (Shape, u64),
    cuts: &AtomicU64,
) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", origin))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    let upward = thread::spawn(move || drop(delay(from, to, shape.latency)));
    let cut = downward(&server, client, shape, number);
    if matches!(cut, Ok(true)) {
        cuts.fetch_add(1, Ordering::Relaxed);
    }
    // Ends the other direction too.
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = upward.join();
    cut.map(drop)
}

/// What the client says, later.
fn delay(mut from: TcpStream, mut to: TcpStream, latency: Duration) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return to.shutdown(Shutdown::Write);
        }
        thread::sleep(latency);
        to.write_all(&piece[..count])?;
    }
}

/// What the server says, at the rate; whether it was cut.
fn downward(
    mut from: &TcpStream,
    mut to: &TcpStream,
    shape: Shape,
    number: u64,
) -> io::Result<bool> {
    let mut piece = vec![0; PIECE];
    let mut free = Instant::now();
    let mut left = shape.cut_every.map(|mean| until_cut(mean, number));
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Ok(false);
        }
        let sent = left.map_or(count, |left| {
            usize::try_from(left).unwrap_or(count).min(count)
        });
        to.write_all(&piece[..sent])?;
        if let Some(left) = &mut left {
            *left -= sent as u64;
            if sent < count {
                return Ok(true);
            }
        }
        let taken = Duration::from_nanos(sent as u64 * 1_000_000_000 / shape.rate.max(1));
        let now = Instant::now();
        free = free.max(now.checked_sub(SLACK).unwrap_or(now)) + taken;
        thread::sleep(free.saturating_duration_since(now));
    }
}

/// After how many bytes connection `number` breaks: anything up to twice the mean, the same in
/// every run.
fn until_cut(mean: u64, number: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^= bits >> 27;
    bits % (2 * mean.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(body: &'static [u8]) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap() == 1 {
                    // A client that was cut off does not read to the end.
                    let _ = stream.write_all(body);
                }
            }
        });
        port
    }

    fn get(proxy: &Proxy) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        stream.write_all(b"?").unwrap();
        let mut answer = Vec::new();
        // A reset counts as an end.
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    #[test]
    fn bytes_pass_and_connections_break_where_they_are_told_to() {
        static BODY: [u8; 300_000] = [7; 300_000];
        let origin = origin(&BODY);
        let mut shape = Shape {
            rate: 1 << 30,
            latency: Duration::from_millis(1),
            cut_every: None,
        };
        let whole = Proxy::start(origin, shape).unwrap();
        assert!(get(&whole) == BODY);
        assert_eq!(whole.cuts(), 0);
        shape.cut_every = Some(100_000);
        let cutting = Proxy::start(origin, shape).unwrap();
        for number in 1..=4 {
            let want = usize::try_from(until_cut(100_000, number)).unwrap();
            assert!(want < 200_000 && get(&cutting).len() <= want, "{number}");
        }
        assert_eq!(cutting.cuts(), 4);
    }
}
