"""How people and programs reach Aureus: REST, the command line, and the documents that describe both."""
