//! Stores with cartridges, and servers over them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use cart_engine::runtime::{Runtime, RuntimeOptions};
use cart_engine::{Agent, GenerateOptions, LoadOptions, Message, Prompt, Telling};
use cart_format::{Commit, ManifestId};
use cart_memory::Input;
use cart_server::{AppState, Served, ServerOptions, serve};
use cart_store::import::{ImportOptions, import};
use cart_store::{Cartridge, Silent, Store, VerifyOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A store that goes when the test ends.
pub(crate) struct Shelf {
    pub(crate) store: Store,
    folder: TempDir,
}

/// A server that ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    runtime: Runtime,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Served>>,
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny")
}

pub(crate) fn shelf() -> Shelf {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(folder.path().join("store")).unwrap();
    Shelf { store, folder }
}

impl Shelf {
    /// The tiny model under a name.
    pub(crate) fn tiny(&self, name: &str) -> Cartridge {
        self.pack(&tiny(), name)
    }

    /// The tiny model with one of its tensors all zero: other weights, other texts.
    pub(crate) fn without(&self, tensor: &str, name: &str) -> Cartridge {
        self.changed(name, tensor, |bytes| bytes.fill(0))
    }

    /// The tiny model with the bytes of one tensor changed.
    pub(crate) fn changed(
        &self,
        name: &str,
        tensor: &str,
        change: impl FnOnce(&mut [u8]),
    ) -> Cartridge {
        let folder = self.copy_of_tiny(name);
        let path = folder.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let described: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let at = |end: usize| described[tensor]["data_offsets"][end].as_u64().unwrap() as usize;
        change(&mut bytes[8 + header + at(0)..8 + header + at(1)]);
        std::fs::write(&path, bytes).unwrap();
        self.pack(&folder, name)
    }

    /// The tiny model in 32 bits, which computes as it should, but overflows where it reads one of
    /// `tokens`: they alone have something in the first number of the hidden state, and the first
    /// layer's MLP multiplies that by more than the square root of the largest float.
    pub(crate) fn overflowing(&self, name: &str, tokens: &[u32]) {
        const HIDDEN: usize = 128;
        self.in_32_bits(name, |tensor, values| {
            if tensor == "model.embed_tokens.weight" {
                for (token, row) in values.chunks_exact_mut(HIDDEN).enumerate() {
                    row[0] = f32::from(tokens.contains(&(token as u32)));
                }
            } else if tensor.ends_with("o_proj.weight") || tensor.ends_with("down_proj.weight") {
                let columns = values.len() / HIDDEN;
                values[..columns].fill(0.0);
            } else if tensor.ends_with("layers.0.mlp.up_proj.weight")
                || tensor.ends_with("layers.0.mlp.gate_proj.weight")
            {
                values.chunks_exact_mut(HIDDEN).for_each(|row| row[0] = 1e25);
            }
        });
    }

    /// The tiny model, which says one token over and over: its row alone has most of a number that all rows have, which
    /// nothing changes on the way, and which the last norm makes large.
    pub(crate) fn collapsed(&self, name: &str, token: u32) -> Cartridge {
        const HIDDEN: usize = 128;
        self.in_32_bits(name, |tensor, values| {
            if tensor == "model.embed_tokens.weight" {
                for (row, values) in values.chunks_exact_mut(HIDDEN).enumerate() {
                    values[0] = if row as u32 == token { 3.0 } else { 1.0 };
                }
            } else if tensor == "model.norm.weight" {
                values[0] = 500.0;
            } else if tensor.ends_with("o_proj.weight") || tensor.ends_with("down_proj.weight") {
                let columns = values.len() / HIDDEN;
                values[..columns].fill(0.0);
            }
        })
    }

    /// A path in the store's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The tiny model with its tensors widened to 32 bits and changed.
    fn in_32_bits(&self, name: &str, change: impl Fn(&str, &mut [f32])) -> Cartridge {
        let folder = self.copy_of_tiny(name);
        let path = folder.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let (length, rest) = bytes.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let mut header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
        header.remove("__metadata__");
        let mut wide = vec![0; 2 * data.len()];
        for (tensor, entry) in &mut header {
            assert_eq!(entry["dtype"], "F16");
            let at = |end: usize| entry["data_offsets"][end].as_u64().unwrap() as usize;
            let (start, end) = (at(0), at(1));
            let narrow = data[start..end].chunks_exact(2);
            let mut values: Vec<f32> =
                narrow.map(|two| half(u16::from_le_bytes(two.try_into().unwrap()))).collect();
            change(tensor, &mut values);
            for (to, value) in wide[2 * start..2 * end].chunks_exact_mut(4).zip(values) {
                to.copy_from_slice(&value.to_le_bytes());
            }
            entry["dtype"] = "F32".into();
            entry["data_offsets"] = serde_json::json!([2 * start, 2 * end]);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(&path, [length.to_vec(), header, wide].concat()).unwrap();
        self.pack(&folder, name)
    }

    fn copy_of_tiny(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        for entry in std::fs::read_dir(tiny()).unwrap() {
            let entry = entry.unwrap();
            std::fs::write(folder.join(entry.file_name()), std::fs::read(entry.path()).unwrap())
                .unwrap();
        }
        folder
    }

    /// The tiny model with one tensor back to front, and then a byte of it flips on the disk.
    pub(crate) fn damaged(&self, tensor: &str, name: &str) {
        let cartridge = self.changed(name, tensor, <[u8]>::reverse);
        let blob = cartridge.manifest().model.tensors[tensor].blob;
        let path = cartridge.locate(&blob).unwrap().path.to_path_buf();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }

    /// A cartridge's commit once more under another name, changed.
    pub(crate) fn recommit(&self, name: &str, of: &Cartridge, change: impl FnOnce(&mut Commit)) {
        let mut commit = of.commit().unwrap().1.clone();
        change(&mut commit);
        let id = self.store.put_commit(&commit).unwrap();
        self.store.update_ref(&name.parse().unwrap(), None, id, 0, "test").unwrap();
    }

    pub(crate) fn open(&self, name: &str) -> Cartridge {
        self.store.open_cartridge(&self.store.resolve(name).unwrap()).unwrap()
    }

    fn pack(&self, folder: &Path, name: &str) -> Cartridge {
        let imported = import(&self.store, folder, &ImportOptions::default(), &Silent).unwrap();
        let recipe = cart_format::Recipe::new("import");
        let commit = Commit::new(imported.manifest_id, 0, recipe);
        let id = self.store.put_commit(&commit).unwrap();
        self.store.update_ref(&name.parse().unwrap(), None, id, 0, "test").unwrap();
        self.open(name)
    }

    /// A server over the cartridge of this name.
    pub(crate) fn serve(&self, name: &str) -> Server {
        self.serve_with(name, RuntimeOptions::default(), ServerOptions::default())
    }

    pub(crate) fn serve_with(
        &self,
        name: &str,
        runtime: RuntimeOptions,
        server: ServerOptions,
    ) -> Server {
        let runtime = Runtime::start(name, self.open(name), runtime).unwrap();
        let state = AppState::new(runtime.handle(), self.store.clone(), server);
        let (shutdown, ended) = oneshot::channel::<()>();
        let (send, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            tokio.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                let shutdown = async {
                    let _ = ended.await;
                };
                serve(listener, state, shutdown).await.unwrap()
            })
        });
        let address = address.recv().unwrap();
        Server { address, runtime, shutdown: Some(shutdown), thread: Some(thread) }
    }
}

impl Server {
    /// What the runtime is doing, as the server says it.
    pub(crate) fn state(&self) -> Value {
        crate::client::get(self, "/cart/state").json()
    }

    /// Waits until the state is as wanted.
    pub(crate) fn wait_until(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        for _ in 0..6000 {
            if wanted(&self.state()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what} did not come about: {}", self.state());
    }

    pub(crate) fn begin_shutdown(&mut self) {
        let _ = self.shutdown.take().unwrap().send(());
    }

    pub(crate) fn join(mut self) -> Served {
        assert!(self.runtime.handle().is_running());
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Overwrites the bytes of a tensor where they lie, under whoever has them mapped.
pub(crate) fn overwrite(cartridge: &Cartridge, tensor: &str) {
    use std::io::Write as _;
    let blob = cartridge.manifest().model.tensors[tensor].blob;
    let path = cartridge.locate(&blob).unwrap().path.to_path_buf();
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "the folder goes with the test")]
    permissions.set_readonly(false);
    std::fs::set_permissions(&path, permissions).unwrap();
    let length = std::fs::metadata(&path).unwrap().len() as usize;
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(&vec![0; length]).unwrap();
}

/// What a cartridge answers when nothing else runs.
pub(crate) fn alone(cartridge: &Cartridge, prompt: &Prompt, max_tokens: usize) -> String {
    answer(cartridge, prompt, max_tokens, false)
}

/// The same, not stopping where the text ends.
pub(crate) fn alone_to_the_end(cartridge: &Cartridge, prompt: &str, max_tokens: usize) -> String {
    answer(cartridge, &raw(prompt), max_tokens, true)
}

fn answer(cartridge: &Cartridge, prompt: &Prompt, max_tokens: usize, ignore_eos: bool) -> String {
    let max_tokens = Some(max_tokens);
    let options = GenerateOptions { max_tokens, ignore_eos, ..GenerateOptions::default() };
    agent(cartridge).generate(prompt, &options, |_| {}).unwrap().text
}

pub(crate) fn agent(cartridge: &Cartridge) -> Agent {
    let verified = cartridge.clone().verify(&VerifyOptions::default(), &Silent).unwrap();
    Agent::load(&verified, &LoadOptions::default()).unwrap()
}

/// The cartridge with a memory that was told two things.
pub(crate) fn told(shelf: &Shelf, cartridge: &Cartridge) -> ManifestId {
    let agent = agent(cartridge);
    let telling = Telling {
        text: "The key of Tom is in box 12. The map of Mia is in box 31.",
        whole: false,
        energy: 0.9,
        source: "test",
    };
    for reading in agent.observations(telling).unwrap() {
        for seen in reading.unwrap() {
            agent.tell_memory(|memory| Input::Observe { at: memory.now() + 1, seen }).unwrap();
        }
    }
    agent.save_memory(&shelf.store).unwrap().id
}

/// A 16-bit float; the model has no subnormal ones that matter.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff) / 1024.0);
    if exponent == 0 { 0.0 } else { sign * (1.0 + fraction) * 2_f32.powi(exponent - 15) }
}

pub(crate) fn raw(text: &str) -> Prompt {
    Prompt::Raw(text.to_owned())
}

pub(crate) fn chat(text: &str) -> Prompt {
    Prompt::Chat(vec![Message::new("user", text)])
}
