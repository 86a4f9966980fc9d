//! Object headers: the messages that describe a group or a dataset.

use super::cursor::Cursor;
use super::{File, damaged, refused};
use crate::error::Result;

pub(super) const DATASPACE: u16 = 0x01;
pub(super) const LINK_INFO: u16 = 0x02;
pub(super) const DATATYPE: u16 = 0x03;
pub(super) const LINK: u16 = 0x06;
pub(super) const EXTERNAL_FILES: u16 = 0x07;
pub(super) const LAYOUT: u16 = 0x08;
pub(super) const FILTERS: u16 = 0x0b;
pub(super) const ATTRIBUTE: u16 = 0x0c;
const CONTINUATION: u16 = 0x10;
pub(super) const SYMBOL_TABLE: u16 = 0x11;
pub(super) const ATTRIBUTE_INFO: u16 = 0x15;

/// A message of a header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    /// Whether `body` only points to where the message is.
    shared: bool,
    body: Cursor<'a>,
}

/// The messages of an object.
#[derive(Debug)]
pub(super) struct Header<'a> {
    messages: Vec<Message<'a>>,
}

impl<'a> Header<'a> {
    pub(super) fn read(file: &File<'a>, address: u64) -> Result<Self> {
        file.step(0)?;
        let mut cursor = file.cursor(address, "object header")?;
        let mut header = Self { messages: Vec::new() };
        if cursor.rest().starts_with(b"OHDR") {
            header.read_version_2(file, cursor)?;
            return Ok(header);
        }
        cursor.version(1)?;
        cursor.skip(1)?;
        let count = usize::from(cursor.u16()?);
        cursor.skip(4)?;
        let size = u64::from(cursor.u32()?);
        cursor.skip(4)?;
        let mut blocks = vec![file.block(cursor.position() as u64, size, "object header")?];
        while let Some(mut block) = blocks.pop() {
            while block.remaining() >= 8 && header.messages.len() < count {
                file.step(0)?;
                let (kind, size) = (block.u16()?, block.u16()?);
                let flags = block.u8()?;
                block.skip(3)?;
                header.push(file, kind, flags, &mut block, size, &mut blocks)?;
            }
        }
        Ok(header)
    }

    fn read_version_2(&mut self, file: &File<'a>, mut cursor: Cursor<'a>) -> Result<()> {
        cursor.signature(b"OHDR")?;
        cursor.version(2)?;
        let flags = cursor.u8()?;
        if flags & 0x20 != 0 {
            cursor.skip(16)?;
        }
        if flags & 0x10 != 0 {
            cursor.skip(4)?;
        }
        let size = cursor.uint(1 << (flags & 3))?;
        let tracks_order = flags & 0x04 != 0;
        let prefix = if tracks_order { 6 } else { 4 };
        let mut blocks = vec![file.block(cursor.position() as u64, size, "object header")?];
        let mut first = true;
        while let Some(mut block) = blocks.pop() {
            if !first {
                // A continuation has a signature before and a checksum behind its messages.
                block.signature(b"OCHK")?;
                let size = block.remaining().checked_sub(4).ok_or_else(|| {
                    damaged("a continuation of an object header is too short for its checksum")
                })?;
                block = file.block(block.position() as u64, size as u64, "object header")?;
            }
            first = false;
            while block.remaining() >= prefix {
                file.step(0)?;
                let kind = u16::from(block.u8()?);
                let size = block.u16()?;
                let flags = block.u8()?;
                block.skip(prefix - 4)?;
                self.push(file, kind, flags, &mut block, size, &mut blocks)?;
            }
        }
        Ok(())
    }

    /// Takes a message's body off `block`; a continuation is put on `blocks`.
    fn push(
        &mut self,
        file: &File<'a>,
        kind: u16,
        flags: u8,
        block: &mut Cursor<'a>,
        size: u16,
        blocks: &mut Vec<Cursor<'a>>,
    ) -> Result<()> {
        let start = block.position();
        let bytes = block.take(size.into())?;
        let mut body = Cursor::new(file, bytes, start, "header message");
        if kind == CONTINUATION {
            let address = body.defined_address("a continuation")?;
            let length = body.length()?;
            blocks.push(file.block(address, length, "continuation of an object header")?);
        }
        // Continuations count as messages in version 1.
        self.messages.push(Message { kind, shared: flags & 2 != 0, body });
        Ok(())
    }

    /// The first message of that kind.
    pub(super) fn find(&self, kind: u16) -> Option<&Message<'a>> {
        self.messages.iter().find(|message| message.kind == kind)
    }

    /// Every message of that kind.
    pub(super) fn all(&self, kind: u16) -> impl Iterator<Item = &Message<'a>> {
        self.messages.iter().filter(move |message| message.kind == kind)
    }

    /// The body of the message of that kind, which must be there.
    pub(super) fn require(&self, kind: u16, what: &str) -> Result<Cursor<'a>> {
        self.find(kind)
            .ok_or_else(|| damaged(format!("an object without a {what} message; expected a dataset")))?
            .body(what)
    }
}

impl<'a> Message<'a> {
    /// Its content.
    pub(super) fn body(&self, what: &str) -> Result<Cursor<'a>> {
        if self.shared {
            return Err(refused(format!(
                "a {what} that is shared between objects (a committed type); save the file anew with Keras"
            )));
        }
        Ok(self.body)
    }
}
