//! A cluster whose two agents are far from each other: see `tests/bin/router`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::skip;

/// A link and what it does to packets; dropping it removes it, so it must outlive the cluster.
#[derive(Debug)]
pub struct LongLink {
    router: Child,
    /// The link lasts as long as this.
    held: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

impl LongLink {
    /// Makes a link and a cluster with `agent-2` at its other end; says aloud when this machine has none.
    ///
    /// # Panics
    /// When the cluster does not come up.
    pub fn between_agents(weather: &[&str]) -> Option<(Self, Cluster)> {
        if !skip::unless_root("a long link") {
            return None;
        }
        let mut link = None;
        let cluster = Cluster::start_with(2, 1, |binaries| link = Self::make(binaries, weather));
        // Without it the cluster is an ordinary one, which goes again.
        Some((link?, cluster))
    }

    fn make(programs: &Path, weather: &[&str]) -> Option<Self> {
        let built = std::env::current_exe().expect("the test has a path");
        let built = built.parent().and_then(Path::parent).expect("the test stands in target/PROFILE/deps");
        let mut command = Command::new(built.join("router"));
        command.arg(format!("drover{}", std::process::id())).args(weather);
        command.arg(format!("programs={}", programs.display()));
        let mut router =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the router runs");
        let held = router.stdin.take();
        let said = BufReader::new(router.stdout.take().expect("it was asked for"));
        let mut link = Self { router, held, said };
        if link.line() != "ready" {
            skip::aloud("a long link needs TUN devices and network namespaces");
            return None;
        }
        Some(link)
    }

    /// Ends the link and returns what happened to the packets, by direction.
    ///
    /// # Panics
    /// When the router broke.
    pub fn counters(mut self) -> Value {
        self.held = None;
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the router said {line:?}: {error}"))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("the router speaks");
        line.trim_end().to_owned()
    }
}

impl Drop for LongLink {
    fn drop(&mut self) {
        self.held = None;
        self.router.wait().ok();
    }
}
