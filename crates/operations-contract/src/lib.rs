//! Every word that rbee's programs speak on the wire.
