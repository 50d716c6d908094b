# Thespian 4.0.1 carries no types. These stubs say what the project uses of it, and no more.
