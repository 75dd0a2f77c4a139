//! Addresses on the loopback that nobody else uses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};

/// Attempts to find a port that is free on several addresses at once.
const ATTEMPTS: u32 = 200;

/// A port that is free on `address` now. The kernel hands such ports out in a random order, so two runs that
/// ask at the same time do not meet.
pub fn free_port(address: IpAddr) -> Result<u16> {
    let listener = TcpListener::bind((address, 0)).with_context(|| format!("cannot listen on {address}"))?;
    Ok(listener.local_addr()?.port())
}

/// A port that is free on all these addresses.
pub fn free_port_on_all(addresses: &[IpAddr]) -> Result<u16> {
    let Some(first) = addresses.first() else { bail!("no address to find a port on") };
    for _ in 0..ATTEMPTS {
        let port = free_port(*first)?;
        if addresses.iter().all(|address| TcpListener::bind((*address, port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no port is free on all of {addresses:?}")
}

/// `127.0.0.1` with a free port.
pub fn free_address() -> Result<SocketAddr> {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Ok(SocketAddr::new(localhost, free_port(localhost)?))
}

/// `count` addresses of a /24 in 127.64.0.0/10 that is this process's own.
pub fn own_addresses(count: u8) -> Vec<IpAddr> {
    let [.., high, low] = std::process::id().to_be_bytes();
    (1..=count).map(|host| IpAddr::V4(Ipv4Addr::new(127, 64 + high % 64, low, host))).collect()
}

/// What a process that serves metrics at this address says.
pub async fn metrics(address: SocketAddr) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = tokio::net::TcpStream::connect(address).await.context("nobody serves metrics")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
