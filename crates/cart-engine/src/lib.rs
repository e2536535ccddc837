//! From a verified cartridge to generated text: sessions, sampling, chat, memory in the loop, hot swap
