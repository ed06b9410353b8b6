"""The command line: a module for each verb. It loads the library after it has read its flags, so help comes at once."""
