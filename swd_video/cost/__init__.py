"""What a schedule costs, counted before it is paid: on shapes alone, without weights and without a GPU."""
