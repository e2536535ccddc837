//! What is typed, message by message.

use std::io::{BufRead as _, IsTerminal as _};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::failure::Failure;

/// Where messages come from.
pub(super) enum Lines {
    /// A terminal, with a history of what was typed before.
    Terminal(Box<DefaultEditor>),
    /// A pipe or a file.
    Piped,
}

impl Lines {
    pub(super) fn open() -> Result<Self, Failure> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Piped);
        }
        let editor = DefaultEditor::new().map_err(Failure::refused)?;
        Ok(Self::Terminal(Box::new(editor)))
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next message; none at the end. A line that ends with `\` goes on in the next one.
    pub(super) fn next(&mut self) -> Result<Option<String>, Failure> {
        let mut message = String::new();
        let mut prompt = "> ";
        while let Some(line) = self.line(prompt)? {
            prompt = "… ";
            let Some(first) = line.strip_suffix('\\') else {
                message.push_str(&line);
                self.remember(&message);
                return Ok(Some(message));
            };
            message.push_str(first);
            message.push('\n');
        }
        Ok((!message.is_empty()).then_some(message))
    }

    fn line(&mut self, prompt: &str) -> Result<Option<String>, Failure> {
        match self {
            Self::Piped => {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line);
                let some = read.map_err(Failure::refused)? > 0;
                Ok(some.then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
            }
            Self::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Some(line)),
                // What was typed is dropped, the conversation goes on.
                Err(ReadlineError::Interrupted) => Ok(Some(String::new())),
                Err(ReadlineError::Eof) => Ok(None),
                Err(error) => Err(Failure::refused(error)),
            },
        }
    }

    fn remember(&mut self, message: &str) {
        if let Self::Terminal(editor) = self
            && !message.trim().is_empty()
        {
            // The history is a convenience.
            let _ = editor.add_history_entry(message);
        }
    }
}
