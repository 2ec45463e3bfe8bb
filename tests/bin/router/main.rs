//! A long link on one machine: two network namespaces, a TUN device in each, and this process between them, which
//! delays, loses, reorders, duplicates and limits what crosses. UDP and TCP cross it, in IPv4 and IPv6.
//!
//! ```text
//! router NAME [delay=50ms] [rate=300Mbit] [queue=1MiB] [loss=0.5%] [reorder=1%] [held=5ms] [duplicate=0.1%]
//!             [seed=1] [programs=DIR]
//! ```
//!
//! `delay` is one way; everything holds in each direction. The namespaces are NAME-a (10.77.1.1, fd77:1::1) and NAME-b
//! (10.77.2.1, fd77:2::1). It says `ready`, runs until its standard input ends, prints what happened to the packets as
//! one JSON document, and removes the namespaces; so they go when whoever wanted them is gone.
//!
//! Packets are moved in steps of half a millisecond, because a router that woke for each would take the two processors
//! from those whose transfer is to be looked at.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a harness's program speaks to who started it"
)]

mod namespace;
mod wire;

use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{clock, human};
use tappers::{Interface, Tun};

use namespace::{End, Namespaces};
use wire::{Counters, MILLION, Weather, Wire};

/// Of Ethernet, as nearly every path has it; TUN devices are made so.
const MTU: usize = 1500;
/// How often packets are moved.
const STEP: Duration = Duration::from_micros(500);
/// How often it is looked whether there are any, while there are none.
const STEP_IDLE: Duration = Duration::from_millis(2);
/// Steps without a packet after which a wire counts as idle.
const IDLE_AFTER: u32 = 200;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("router: {text}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked for.
#[derive(Debug, Default)]
struct Order {
    name: String,
    weather: Weather,
    seed: u64,
    programs: Option<String>,
}

fn run(words: &[String]) -> Result<(), String> {
    let order = read(words)?;
    // Dropped on every way out, and so are the namespaces.
    let namespaces = Namespaces::make(&order.name)?;
    let devices = [device(&namespaces, End::A)?, device(&namespaces, End::B)?].map(Arc::new);
    if let Some(directory) = &order.programs {
        namespaces.enclose(directory.as_ref())?;
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let ways = [(0, 1, "a_to_b"), (1, 0, "b_to_a")].map(|(from, to, name)| {
        let wire = Wire::new(order.weather.clone(), order.seed + from as u64);
        let (from, to) = (Arc::clone(&devices[from]), Arc::clone(&devices[to]));
        let is_over = Arc::clone(&is_over);
        (name, thread::spawn(move || carry(&from, &to, wire, &is_over)))
    });
    println!("ready");
    // What is written there means nothing; its end does.
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(|error| error.to_string())?;
    is_over.store(true, Ordering::Relaxed);
    let mut told = BTreeMap::new();
    for (name, way) in ways {
        told.insert(name, way.join().map_err(|_panic| format!("{name} broke"))?);
    }
    println!("{}", serde_json::to_string(&told).map_err(|error| error.to_string())?);
    Ok(())
}

/// Makes the device of one end, and hands it over to its namespace.
fn device(namespaces: &Namespaces, end: End) -> Result<Tun, String> {
    let failed = |error: std::io::Error| format!("no TUN device: {error}");
    let name = Interface::new(namespaces.device(end)).map_err(failed)?;
    let mut device = Tun::new_named(name).map_err(failed)?;
    device.set_nonblocking(true).map_err(failed)?;
    namespaces.adopt(end)?;
    Ok(device)
}

/// Carries packets one way until it is over.
fn carry(from: &Tun, to: &Tun, mut wire: Wire, is_over: &AtomicBool) -> Counters {
    let began = clock::boot();
    let mut buffer = vec![0; MTU];
    let mut idle = 0;
    while !is_over.load(Ordering::Relaxed) {
        let now = clock::boot().since(began);
        idle += 1;
        // Anything but a packet is none, or a device that is gone together with its namespace.
        while let Ok(length) = from.recv(&mut buffer) {
            wire.take(now, &buffer[..length]);
            idle = 0;
        }
        while let Some(packet) = wire.give(now) {
            // A receiver without room loses it, as anywhere.
            to.send(&packet).ok();
        }
        thread::sleep(if wire.is_idle() && idle > IDLE_AFTER { STEP_IDLE } else { STEP });
    }
    wire.counters()
}

fn read(words: &[String]) -> Result<Order, String> {
    let (name, words) = words.split_first().ok_or("name the link, and what it is like")?;
    let mut order = Order { name: name.clone(), seed: 1, ..Order::default() };
    order.weather.queue_bytes = 1024 * 1024;
    order.weather.held = Duration::from_millis(5);
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word} is not KEY=VALUE"))?;
        let weather = &mut order.weather;
        let duration = || human::parse_duration(value).map_err(|error| error.to_string());
        match key {
            "delay" => weather.delay = duration()?,
            "held" => weather.held = duration()?,
            "rate" => weather.bytes_per_s = Some(rate(value)?),
            "queue" => {
                weather.queue_bytes = human::parse_bytes(value).map_err(|error| error.to_string())?;
            }
            "loss" => weather.lost = chance(value)?,
            "reorder" => weather.reordered = chance(value)?,
            "duplicate" => weather.duplicated = chance(value)?,
            "seed" => order.seed = value.parse().map_err(|error| format!("seed={value}: {error}"))?,
            "programs" => order.programs = Some(value.to_owned()),
            _ => return Err(format!("{key} is not known")),
        }
    }
    Ok(order)
}

/// Reads `300Mbit` as bytes per second.
fn rate(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("Mbit").and_then(|number| number.parse::<u64>().ok());
    number.map(|number| number * 125_000).ok_or_else(|| format!("{text} is not a rate like 300Mbit"))
}

/// Reads `0.5%` as parts of a million.
fn chance(text: &str) -> Result<u64, String> {
    let invalid = || format!("{text} is not a part like 0.5%");
    let (whole, part) = text
        .strip_suffix('%')
        .ok_or_else(invalid)?
        .split_once('.')
        .unwrap_or((text.trim_end_matches('%'), "0"));
    let digits = format!("{whole}{part:0<4}");
    let chance = digits.parse::<u64>().ok().filter(|chance| part.len() <= 4 && *chance <= MILLION);
    chance.ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        let words = ["x", "delay=50ms", "rate=20Mbit", "queue=64KiB", "loss=0.5%", "reorder=2%", "seed=7"];
        let order = read(&words.map(str::to_owned)).unwrap();
        let weather = order.weather;
        assert_eq!((order.name.as_str(), order.seed), ("x", 7));
        assert_eq!((weather.delay, weather.queue_bytes), (Duration::from_millis(50), 65_536));
        assert_eq!((weather.bytes_per_s, weather.lost, weather.reordered), (Some(2_500_000), 5_000, 20_000));
        assert_eq!(chance("100%"), Ok(MILLION));
        for wrong in ["loss=1", "loss=101%", "rate=9", "colour=red", "delay"] {
            assert!(read(&["x".to_owned(), wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
