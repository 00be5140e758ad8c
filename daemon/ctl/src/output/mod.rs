//! Turning answers into text: tables for people, JSON for programs. Nothing here talks to the daemon.

pub(crate) mod call;
pub(crate) mod json;
pub(crate) mod table;
pub(crate) mod text;

use std::io::{self, IsTerminal as _, Write as _};

/// What the reader of the output can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Columns of the terminal; `None` if it is not one: then nothing is cut or wrapped.
    pub(crate) width: Option<u16>,
    /// Whether colour may be used. It never carries anything alone.
    pub(crate) colour: bool,
}

impl Look {
    /// Of our standard output. `NO_COLOR` (set and not empty) and `TERM=dumb` switch colour off.
    pub(crate) fn of_stdout() -> Look {
        let terminal = io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = terminal.then(terminal_size::terminal_size).flatten().map(|(width, _)| width.0);
        Look { width, colour: terminal && !dumb && !set("NO_COLOR") }
    }
}

/// How good something is; decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Somebody should look.
    Doubtful,
    /// Something is lost.
    Bad,
}

/// Text that grows line by line.
#[derive(Debug)]
pub(crate) struct Page {
    look: Look,
    text: String,
}

impl Page {
    /// An empty page.
    pub(crate) fn new(look: Look) -> Page {
        Page { look, text: String::new() }
    }

    /// What the reader can take.
    pub(crate) fn look(&self) -> Look {
        self.look
    }

    /// Adds one line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// Starts a section.
    pub(crate) fn heading(&mut self, heading: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let line = self.painted(heading, "1");
        self.line(line);
    }

    /// Adds lines that end with a line break already.
    pub(crate) fn block(&mut self, block: &str) {
        self.text.push_str(block);
    }

    /// `word` in the colour of `tone`.
    pub(crate) fn toned(&self, word: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "31",
        };
        self.painted(word, code)
    }

    /// The whole text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    fn painted(&self, word: &str, code: &str) -> String {
        if self.look.colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
    }
}

/// Writes `text` to standard output at once, so that a reader of a pipe sees whole lines.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
