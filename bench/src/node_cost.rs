//! What the node pays: traffic of a process that has nothing to do with AI, with and without the daemon.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use e2e::daemon::Daemon;

use crate::link::Link;
use crate::measure::Ratio;

/// How long one figure is measured once.
const SPAN: Duration = Duration::from_millis(400);

/// A load against an address; seconds per step.
type Load = fn(SocketAddr) -> anyhow::Result<f64>;

/// What is measured; larger is slower.
const LOADS: &[(&str, Load)] = &[
    ("TCP 1-byte ping-pong", ping_pong),
    ("TCP 64 KB bulk", bulk),
    ("UDP send", udp),
    ("TCP connect", connect),
];

/// Serves the loads on `address`: echoes a first byte `p`, swallows after `b`, closes otherwise. Never returns.
pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let udp = UdpSocket::bind(address)?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while udp.recv(&mut buffer).is_ok() {}
    });
    let listener = TcpListener::bind(address)?;
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                if buffer[0] == b'p' && stream.write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// A server in a process of its own, in network namespace `namespace` if given.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn start(address: SocketAddr, namespace: Option<&str>) -> anyhow::Result<Server> {
        let exe = std::env::current_exe()?;
        let mut command = match namespace {
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(&exe);
                command
            }
            None => Command::new(&exe),
        };
        let mut child = command.arg("serve").arg(address.to_string()).stdout(Stdio::piped()).spawn()?;
        let mut ready = [0; 6];
        child.stdout.as_mut().context("its output")?.read_exact(&mut ready)?;
        Ok(Server(child))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures every load `pairs` times without and with a daemon of `config`, interleaved, on loopback and on a veth pair;
/// with no configuration there is a daemon on neither side, and the ratios show what the machine's noise makes of it.
pub(crate) fn run(pairs: usize, config: Option<&str>) -> anyhow::Result<Vec<(String, Ratio)>> {
    let link = Link::new(1)?;
    measure(pairs, config, link.namespace)
}

fn measure(pairs: usize, config: Option<&str>, namespace: &str) -> anyhow::Result<Vec<(String, Ratio)>> {
    let places = [("loopback", "127.80.0.1:7801", None), ("veth", "198.18.77.2:7801", Some(namespace))];
    let mut servers = Vec::new();
    for (_, address, namespace) in places {
        servers.push(Server::start(address.parse()?, namespace)?);
    }
    let mut all = vec![Vec::new(); places.len() * LOADS.len()];
    for pair in 0..pairs {
        eprint!("\rnode cost: pair {} of {pairs}   ", pair + 1);
        let dir = tempfile::tempdir()?;
        // The order alternates, so that a drift of the machine hits both sides.
        let mut sides = [Vec::new(), Vec::new()];
        for with in if pair % 2 == 0 { [false, true] } else { [true, false] } {
            let config = config.filter(|_| with);
            let daemon = config.map(|config| Daemon::start(dir.path(), config)).transpose()?;
            for (_, address, _) in places {
                for (_, load) in LOADS {
                    sides[usize::from(with)].push(load(address.parse()?)?);
                }
            }
            if let Some(daemon) = daemon {
                daemon.stop()?;
            }
        }
        for (index, figures) in all.iter_mut().enumerate() {
            figures.push((sides[0][index], sides[1][index]));
        }
    }
    eprintln!();
    let names =
        places.iter().flat_map(|place| LOADS.iter().map(move |load| format!("{}, {}", load.0, place.0)));
    Ok(names.zip(all).map(|(name, figures)| (name, Ratio::of(&figures))).collect())
}

fn ping_pong(address: SocketAddr) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut byte = [b'p'];
    per_step(|| {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        Ok(())
    })
}

fn bulk(address: SocketAddr) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(address)?;
    let block = vec![b'b'; 64 * 1024];
    per_step(|| Ok(stream.write_all(&block)?))
}

fn udp(address: SocketAddr) -> anyhow::Result<f64> {
    let socket = UdpSocket::bind(if address.ip().is_loopback() { "127.0.0.1:0" } else { "0.0.0.0:0" })?;
    socket.connect(address)?;
    let packet = [b'b'; 64];
    per_step(|| {
        socket.send(&packet)?;
        Ok(())
    })
}

fn connect(address: SocketAddr) -> anyhow::Result<f64> {
    per_step(|| {
        TcpStream::connect(address)?;
        Ok(())
    })
}

/// Seconds per step over [`SPAN`].
fn per_step(mut step: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    for _ in 0..20 {
        step()?;
    }
    let started = Instant::now();
    let mut steps = 0_u32;
    while started.elapsed() < SPAN {
        for _ in 0..20 {
            step()?;
        }
        steps += 20;
    }
    Ok(started.elapsed().as_secs_f64() / f64::from(steps))
}
