from services.aggregator.watch.app import main

raise SystemExit(main())
